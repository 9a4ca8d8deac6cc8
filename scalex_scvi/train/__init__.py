"""Training: the plan, the stopping rule and the data loading."""

from ._callbacks import BestTrainingLoss, ProcessNoise, training_callbacks
from ._data import SCALEXDataManager, share_of_nonzero
from ._distributed import count_processes, ddp_logging
from ._length import default_steps
from ._loader import SCALEXDataSplitter
from ._plan import SCALEXTrainingPlan
from ._recipe import DEFAULT, PUBLISHED, QUICK, Recipe, Schedule
from ._start import mean_expression
from ._store import StoreDataModule, store_data_module

__all__ = [
    "DEFAULT",
    "PUBLISHED",
    "QUICK",
    "BestTrainingLoss",
    "ProcessNoise",
    "Recipe",
    "SCALEXDataManager",
    "SCALEXDataSplitter",
    "SCALEXTrainingPlan",
    "Schedule",
    "StoreDataModule",
    "count_processes",
    "ddp_logging",
    "default_steps",
    "mean_expression",
    "share_of_nonzero",
    "store_data_module",
    "training_callbacks",
]

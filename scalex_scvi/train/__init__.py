"""Training: the plan, the stopping rule and the data loading."""

from ._callbacks import BestTrainingLoss
from ._data import SCALEXDataManager
from ._plan import SCALEXTrainingPlan

__all__ = ["BestTrainingLoss", "SCALEXDataManager", "SCALEXTrainingPlan"]

from . import cli as cli
from . import datasets as datasets
from . import io as io
from . import metrics as metrics
from . import model as model
from . import module as module
from . import nn as nn
from . import pl as pl
from . import pp as pp
from . import references as references
from . import tl as tl
from . import train as train
from . import workflow as workflow
from .model import SCALEXModel as SCALEXModel
from .tl import integrate as integrate
from .tl import label_transfer as label_transfer
from .tl import map_query as map_query
from .workflow import SCALEX as SCALEX

__version__: str

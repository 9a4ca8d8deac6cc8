from ._model import SCALEXModel as SCALEXModel

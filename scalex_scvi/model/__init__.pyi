from ._scalex import SCALEXModel as SCALEXModel

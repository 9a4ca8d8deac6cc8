from ._embed import embed as embed
from ._integrate import integrate as integrate
from ._label_scores import LabelScores as LabelScores
from ._label_scores import label_scores as label_scores
from ._label_transfer import label_transfer as label_transfer
from ._map_query import map_query as map_query
from ._transfer_expression import transfer_expression as transfer_expression
from ._unknown_clusters import unknown_clusters as unknown_clusters

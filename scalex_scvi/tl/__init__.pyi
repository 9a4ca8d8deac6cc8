from ._embed import embed as embed
from ._label_scores import LabelScores as LabelScores
from ._label_scores import label_scores as label_scores
from ._label_transfer import label_transfer as label_transfer
from ._transfer_expression import transfer_expression as transfer_expression

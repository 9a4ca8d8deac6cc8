from ._embed import embed as embed
from ._label_transfer import label_transfer as label_transfer
from ._project import project_store as project_store
from ._transfer_expression import transfer_expression as transfer_expression

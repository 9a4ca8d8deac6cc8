from ._before_after import before_after as before_after
from ._confusion import confusion as confusion
from ._embedding import embedding as embedding
from ._history import history as history
from ._meta import meta as meta
from ._meta import meta_pair as meta_pair
from ._umap import projection as projection
from ._umap import umap as umap

from ._cache import available as available
from ._fetch import is_remote as is_remote
from ._load import Reference as Reference
from ._load import is_reference as is_reference
from ._load import load as load
from ._push import push as push
from ._save import save as save

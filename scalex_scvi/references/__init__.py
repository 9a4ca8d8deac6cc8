"""References by name: trained models to map new cells onto, without counts, shared and checked."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

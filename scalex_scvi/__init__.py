"""SCALEX for scvi-tools: online integration of single-cell data.

The public names, here and in the subpackages, are those of the ``__init__.pyi`` beside each
``__init__.py``. They are loaded on first use, so that importing the package takes no time.
"""

from importlib.metadata import version as _version

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

__version__ = _version("scalex-scvi")

"""What the published package needs of other packages' former versions."""

from __future__ import annotations

from functools import partial
from typing import Any


def import_scalex() -> Any:
    """Import the published package, which needs names that have gone from other packages.

    ``np.Inf``; for peaks episcanpy, which needs ``np.NaN`` and ``anndata.read``; and ``torch.load``
    of its ``config.pt``, which holds more than tensors.
    """
    import anndata
    import numpy as np
    import torch

    for name, value in (("Inf", np.inf), ("NaN", np.nan)):
        vars(np).setdefault(name, value)
    vars(anndata).setdefault("read", anndata.read_h5ad)
    torch.load = partial(torch.load, weights_only=False)
    import scalex

    return scalex

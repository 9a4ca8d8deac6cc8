"""A checksum of what a model file holds, and whether its numbers can be those of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch


def checksum(content: Any) -> str:
    """Return the SHA-256 of tensors and plain types, whatever file they lie in.

    torch writes a CRC-32 beside each part of a file, but does not look at it when it reads.

    Parameters
    ----------
    content
        Nested dictionaries and lists of tensors, numbers, text and ``None``.
    """
    digest = hashlib.sha256()
    _add(digest, content)
    return digest.hexdigest()


def checksum_of_arrays(arrays: Iterable[np.ndarray]) -> str:
    """Return the SHA-256 of arrays of numbers: their types, shapes and values.

    Parameters
    ----------
    arrays
        Of any numeric type and order in memory, read-only ones too.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        flat = value.new_empty(value.numel()).copy_(value.detach().reshape(-1))
        digest.update(flat.view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}".encode())
        for key, item in value.items():
            _add(digest, key)
            _add(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(f"sequence {len(value)}".encode())
        for item in value:
            _add(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r};".encode(errors="surrogatepass"))


def impossible_numbers(state_dict: Mapping[str, torch.Tensor]) -> str | None:
    """Say what in the weights cannot be: NaN, infinite numbers, negative variances; else ``None``.

    Parameters
    ----------
    state_dict
        Tensors by name.
    """
    for name, value in state_dict.items():
        if not value.is_floating_point():
            continue
        n_bad = int((~torch.isfinite(value)).sum())
        if n_bad:
            return f"{n_bad} of {value.numel()} numbers of {name!r} are NaN or infinite"
        if name.endswith("running_var") and (value < 0).any():
            return f"{name!r} holds negative variances"
    return None

"""The place of ``load_data`` in the published documentation; it does more than reading."""

# Loaded on first use alone, so that reading knows nothing of what comes after it.
from scalex_scvi.workflow import load_data

__all__ = ["load_data"]

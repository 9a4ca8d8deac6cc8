"""``data.load_data`` of the published package, which reads data and prepares them."""

# Loaded on first use alone, so that reading knows nothing of what comes after it.
from scalex_scvi.workflow import load_data

__all__ = ["load_data"]

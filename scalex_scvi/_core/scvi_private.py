"""Everything that this package uses of scvi-tools' private modules, in one place.

scvi-tools has no public names for these; each of them is checked on both supported versions by the
tests of what uses it.
"""

from __future__ import annotations

import rich.pretty  # noqa: F401  scvi-tools 1.4.2 uses it in view_anndata_setup, unimported
from anndata import AnnData
from scvi.data._anntorchdataset import AnnTorchDataset
from scvi.data._constants import _ADATA_MINIFY_TYPE_UNS_KEY as MINIFY_TYPE_KEY
from scvi.data._constants import _DATA_REGISTRY_KEY as DATA_REGISTRY_KEY
from scvi.data._constants import _FIELD_REGISTRIES_KEY as FIELD_REGISTRIES_KEY
from scvi.data._constants import _MODEL_NAME_KEY as MODEL_NAME_KEY
from scvi.data._constants import _SCVI_UUID_KEY as UUID_KEY
from scvi.data._constants import _SETUP_ARGS_KEY as SETUP_ARGS_KEY
from scvi.data._constants import _SETUP_METHOD_NAME as SETUP_METHOD_KEY
from scvi.data._constants import _STATE_REGISTRY_KEY as STATE_REGISTRY_KEY
from scvi.data._constants import _SUMMARY_STATS_KEY as SUMMARY_STATS_KEY
from scvi.data._constants import ADATA_MINIFY_TYPE
from scvi.data._utils import _check_if_view as check_if_view
from scvi.data._utils import _get_adata_minify_type as minify_type
from scvi.data._utils import get_anndata_attribute, scipy_to_torch_sparse
from scvi.model._utils import parse_device_args, use_distributed_sampler
from scvi.model.base._constants import SAVE_KEYS
from scvi.model.base._de_core import _de_core as compare_groups
from scvi.module._constants import MODULE_KEYS


def has_no_counts(adata: AnnData) -> bool:
    """Whether an AnnData was minified to its latent, and has no expression."""
    return minify_type(adata) == ADATA_MINIFY_TYPE.LATENT_POSTERIOR


__all__ = [
    "ADATA_MINIFY_TYPE",
    "DATA_REGISTRY_KEY",
    "FIELD_REGISTRIES_KEY",
    "MINIFY_TYPE_KEY",
    "MODEL_NAME_KEY",
    "MODULE_KEYS",
    "SAVE_KEYS",
    "SETUP_ARGS_KEY",
    "SETUP_METHOD_KEY",
    "STATE_REGISTRY_KEY",
    "SUMMARY_STATS_KEY",
    "UUID_KEY",
    "AnnTorchDataset",
    "check_if_view",
    "compare_groups",
    "get_anndata_attribute",
    "has_no_counts",
    "minify_type",
    "parse_device_args",
    "scipy_to_torch_sparse",
    "use_distributed_sampler",
]

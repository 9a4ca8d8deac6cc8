"""Models to share: without counts, and with chosen annotations of their cells alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data.fields import CategoricalObsField

from scalex_scvi._core.keys import own_keys
from scalex_scvi._core.measured import mark_measured
from scalex_scvi._core.scvi_private import (
    ADATA_MINIFY_TYPE,
    FIELD_REGISTRIES_KEY,
    MINIFY_TYPE_KEY,
    SETUP_ARGS_KEY,
    STATE_REGISTRY_KEY,
)

if TYPE_CHECKING:
    from scvi.model.base import BaseMinifiedModeModelClass as _Base
else:
    _Base = object

_OWN = ("registry_", "init_params_")
"""Attributes that the new model makes anew."""


class MinifiedMixin(_Base):
    """Adds :meth:`without_counts`."""

    def without_counts(self, obs: str | Sequence[str] = (), obsm: str | Sequence[str] = ()) -> Self:
        """Return a minified model of the same cells, to share.

        scvi-tools' :meth:`minify_adata` keeps all of ``obs``, ``obsm`` and ``uns``, the names of
        the cells and their total counts. None of these is in the model that is returned, except
        for what ``obs`` and ``obsm`` name.

        Parameters
        ----------
        obs
            Column or columns of ``adata.obs`` to keep beside that with the batches.
        obsm
            Key or keys of ``adata.obsm`` to keep, a map for example.

        Returns
        -------
        A model whose cells have the mean and variance of their latent, their batch, and what
        ``obs`` and ``obsm`` name: no expression, no totals, and numbers instead of names. It
        decodes expression, and :meth:`load_query_data` takes it as a reference; counts of a query
        are then read from ``X``, whatever the layer of this model.

        Raises
        ------
        KeyError
            If there is no such column or key.
        ValueError
            If the model has no cells.
        RuntimeError
            If the model is not trained.
        """
        if self.adata is None:
            msg = "The model was loaded without cells: load it with them, `load(folder, adata)`."
            raise ValueError(msg)
        self._check_if_trained(warn=False)
        light = self._light(*([one] if isinstance(one, str) else one for one in (obs, obsm)))
        registry = _without_labels(self.registry_)
        self._set_up_alike(light, registry)
        model = type(self)(light, **self.init_params_["non_kwargs"])
        for name, value in self._get_user_attributes():
            if name.endswith("_") and name not in _OWN:
                setattr(model, name, deepcopy(value))
        model.module.load_state_dict(self.module.state_dict())
        model.to_device(self.device)
        model.module.eval()
        return model

    def _light(self, obs: Sequence[str], obsm: Sequence[str]) -> AnnData:
        adata, genes = self.adata_manager.annotated, list(self.get_var_names())
        batch_key = self.registry_[SETUP_ARGS_KEY]["batch_key"]
        for name, given, there in (("obs", obs, adata.obs), ("obsm", obsm, adata.obsm)):
            for key in given:
                if key not in there:
                    own = own_keys(there)
                    msg = f"`{name}` {key!r} is not in adata.{name}: {own!r}."
                    raise KeyError(msg)
        columns = list(dict.fromkeys([*([] if batch_key is None else [batch_key]), *obs]))
        names = pd.Index([f"reference_{i}" for i in range(adata.n_obs)])
        mean, var = self.get_latent_representation(return_dist=True)
        of_genes = pd.DataFrame(index=pd.Index(genes))
        mark_measured(of_genes, self.adata_manager.measured)
        light = AnnData(
            sparse.csr_matrix((adata.n_obs, len(genes)), dtype=np.float32),
            obs=adata.obs[columns].set_axis(names),
            var=of_genes,
            obsm={key: np.array(adata.obsm[key]) for key in obsm},
        )
        light.obsm[self._LATENT_QZM_KEY], light.obsm[self._LATENT_QZV_KEY] = mean, var
        # scvi-tools wants totals, which SCALEX has no use for.
        light.obs[self._OBSERVED_LIB_SIZE_KEY] = np.float32(1)
        light.uns[MINIFY_TYPE_KEY] = ADATA_MINIFY_TYPE.LATENT_POSTERIOR
        return light


def _without_labels(registry: dict[str, Any]) -> dict[str, Any]:
    """Return a registry as of a model that was set up with counts in ``X`` and no labels."""
    registry = deepcopy(registry)
    registry[SETUP_ARGS_KEY] |= {"layer": None, "labels_key": None}
    labels = registry[FIELD_REGISTRIES_KEY][REGISTRY_KEYS.LABELS_KEY][STATE_REGISTRY_KEY]
    labels |= {
        CategoricalObsField.CATEGORICAL_MAPPING_KEY: np.array([0]),
        CategoricalObsField.ORIGINAL_ATTR_KEY: "_scvi_labels",
    }
    return registry

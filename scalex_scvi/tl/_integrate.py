"""Integration in place, for those who work with scanpy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from anndata import AnnData

from scalex_scvi._core.inputs import check_adata
from scalex_scvi._core.keys import LATENT_KEY
from scalex_scvi._core.messages import messages_on_console
from scalex_scvi._core.trainer_arguments import check_trainer_arguments
from scalex_scvi.io import with_raw
from scalex_scvi.model import SCALEXModel
from scalex_scvi.pp import get_profile
from scalex_scvi.train import DEFAULT, Recipe

logger = logging.getLogger(__name__)


def integrate(
    adata: AnnData,
    batch_key: str | None = None,
    layer: str | None = None,
    *,
    profile: str = "RNA",
    n_top_features: Any = None,
    log_normalized: bool | None = None,
    recipe: Recipe | Mapping[str, Any] = DEFAULT,
    seed: int | None = None,
    **train_kwargs: Any,
) -> SCALEXModel:
    """Integrate the batches of an AnnData in place, and return the trained model.

    No cell and no gene is left out, and nothing of ``adata`` changes, but that the latent is
    added, for :func:`embed` or ``scanpy.pp.neighbors(adata, use_rep="X_scalex")``.

    Parameters
    ----------
    adata
        Cells × genes (peaks, proteins), counts. Added are ``obsm["X_scalex"]``, cells × latent
        dimensions, float32, and scvi-tools' registration (columns of ``obs`` and keys of ``uns``
        that begin with ``_scvi``).
    batch_key
        Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
    layer
        Layer with the counts, instead of ``adata.X``; ``"raw"``: ``adata.raw``, with its genes, of
        which the model's ``adata`` is then a new object.
    profile
        Kind of data: ``"RNA"``, ``"ATAC"`` or ``"ADT"``.
    n_top_features
        Features of the model: a number of variable ones, -1 for all, or a list. ``None``: those
        that ``adata.var["highly_variable"]`` marks, as scanpy's PCA has it, else 2 000 genes or
        30 000 peaks, if there are more. Cells are normalized over all features in any case.
    log_normalized
        Whether the values are log-normalized already. ``None``: counts are expected, and values
        that look log-normalized raise an error.
    recipe
        How the model is trained: ``scalex_scvi.train.DEFAULT``, ``QUICK`` or ``PUBLISHED``, or
        options that differ from the default, such as ``{"max_steps": 1_000}``.
    seed
        Seed of everything random; ``None``: ``scvi.settings.seed``, else 124.
    **train_kwargs
        Further arguments of :meth:`scalex_scvi.SCALEXModel.train`, for example
        ``enable_progress_bar=False``.

    Returns
    -------
    The trained model, whose ``adata`` is ``adata``: for :func:`map_query`, to save, or for
    expression without batches.

    Raises
    ------
    KeyError, TypeError, ValueError
        See :meth:`scalex_scvi.SCALEXModel.setup_anndata` and
        :meth:`scalex_scvi.SCALEXModel.train`. Nothing is added then but scvi-tools' registration.
    RuntimeError
        If the loss diverges.
    """
    with messages_on_console(True):
        check_adata(adata, is_filled=True)
        check_trainer_arguments(train_kwargs, integrate, SCALEXModel.train, options=Recipe.names())
        counts, layer = with_raw(adata, layer)
        chosen = _features(counts, profile, n_top_features)
        SCALEXModel.setup_anndata(
            counts,
            batch_key=batch_key,
            layer=layer,
            profile=profile,
            n_top_features=chosen,
            log_normalized=log_normalized,
        )
        model = SCALEXModel(counts, seed=seed)
        if batch_key is not None and model.summary_stats.n_batch == 1:
            logger.warning(
                "All cells are of one batch in obs[%r], so that no difference between batches is "
                "removed. If there are several, name their column as `batch_key`.",
                batch_key,
            )
        model.train(recipe=recipe, seed=seed, **train_kwargs)
        adata.obsm[LATENT_KEY] = model.get_latent_representation()
    return model


def _features(adata: AnnData, profile: str, given: Any) -> Any:
    if given is not None:
        return given
    if "highly_variable" in adata.var:
        logger.info("The model has the features that adata.var['highly_variable'] marks.")
        return "highly_variable"
    usual = get_profile(profile).n_top_features
    return usual if 0 < usual < adata.n_vars else -1

"""Models of one modality of a MuData."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

from anndata import AnnData
from mudata import MuData

from scalex_scvi._core.modalities import Cells, check_cells
from scalex_scvi._core.scvi_private import SETUP_ARGS_KEY, check_if_view
from scalex_scvi.pp import NewBatches

if TYPE_CHECKING:
    from scvi.model.base import BaseMinifiedModeModelClass as _Base
else:
    _Base = object


class MuDataMixin(_Base):
    """Adds :meth:`setup_mudata`, and lets a model take AnnData and MuData alike."""

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        batch_key: str | None = None,
        labels_key: str | None = None,
        layer: str | None = None,
        profile: str = "RNA",
        n_top_features: Any = None,
        log_normalized: bool | None = None,
        processed: bool | None = None,
        new_batches: NewBatches = "reference",
        modalities: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register one modality of a MuData, as :meth:`setup_anndata` does an AnnData.

        The model is that of the modality alone, bit for bit; ``model.adata`` is the MuData. Rows
        of all results are in the order of ``mdata.obs_names``. Nothing of ``mdata`` is copied or
        changed, but for scvi-tools' marks (keys of ``mdata.uns`` that begin with ``_scvi``).

        Other cells may come as MuData with the same modality, or as AnnData of that modality: for
        :meth:`load_query_data`, :meth:`load`, :meth:`get_latent_representation` and all that take
        ``adata``. Groups to compare and labels to look up are columns of ``mdata.obs``.

        Parameters
        ----------
        mdata
            Cells with several modalities. That which is read must have all of them, in one order;
            others may lack some.
        batch_key, labels_key
            Columns of ``mdata.obs``, or of the ``obs`` of a modality by ``modalities``.
        layer
            Layer of the modality with the counts, instead of its ``X``.
        profile, n_top_features, log_normalized, processed, new_batches
            See :meth:`setup_anndata`.
        modalities
            Modality of each argument, as in :meth:`scvi.model.TOTALVI.setup_mudata`. ``"layer"``
            is needed: the modality that the model reads. ``"batch_key"`` and ``"labels_key"``
            name those whose ``obs`` has the column (``None``: it is that of ``mdata``).
        **kwargs
            See :meth:`setup_anndata`.

        Raises
        ------
        KeyError
            If there is no such modality, column or layer.
        TypeError
            If ``mdata`` is no MuData, or without ``modalities``.
        ValueError
            If the modality lacks cells of ``mdata`` or has them in another order, for a
            ``mdata`` that is a view, for other keys of ``modalities``; and as
            :meth:`setup_anndata`.

        Examples
        --------
        >>> SCALEXModel.setup_mudata(mdata, batch_key="batch", modalities={"layer": "rna"})
        >>> model = SCALEXModel(mdata)
        >>> model.train()
        >>> mdata.obsm["X_scalex"] = model.get_latent_representation()
        """
        if not isinstance(mdata, MuData):
            kind = type(mdata).__name__
            msg = (
                f"`mdata` is a {kind!r}; allowed is a MuData. `{cls.__name__}.setup_anndata` takes "
                "an AnnData."
            )
            raise TypeError(msg)
        modalities = None if modalities is None else _as_dict(modalities)
        cls._register(mdata, cls._get_setup_method_args(**locals()), kwargs)

    @classmethod
    def _set_up_alike(cls, cells: Cells, registry: Mapping[str, Any], **more: Any) -> None:
        """Register cells as those of a registry were, be they AnnData or MuData.

        Parameters
        ----------
        cells
            Cells to register.
        registry
            That of a model.
        **more
            Arguments of the set-up that differ, and how to transfer.
        """
        arguments = dict(registry[SETUP_ARGS_KEY]) | more
        if isinstance(cells, AnnData):
            arguments.pop("modalities", None)
            cls.setup_anndata(cells, source_registry=registry, **arguments)
        else:
            cls.setup_mudata(cells, source_registry=registry, **arguments)

    def minify_adata(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`scvi.model.base.BaseMinifiedModeModelClass.minify_adata`.

        Raises
        ------
        NotImplementedError
            If the model's cells are those of a MuData, of which one modality alone would be left.
        KeyError
            If mean or variance of the latent are not in ``adata.obsm``.
        ValueError
            If the model has no cells.
        """
        if isinstance(self.adata, MuData):
            msg = (
                "A MuData is not minified: the model reads one of its modalities. Use "
                "`model.without_counts(obs=[…])`, whose cells are an AnnData."
            )
            raise NotImplementedError(msg)
        if self.adata is None:
            msg = "The model was loaded without cells: load it with them, `load(folder, adata)`."
            raise ValueError(msg)
        given = signature(super().minify_adata).bind(*args, **kwargs)
        given.apply_defaults()
        for name in ("use_latent_qzm_key", "use_latent_qzv_key"):
            key = given.arguments[name]
            if key not in self.adata.obsm:
                msg = (
                    f"`{name}` {key!r} is not in adata.obsm: {list(self.adata.obsm)!r}. Mean and "
                    "variance of the latent are written there first: `mean, variance = "
                    "model.get_latent_representation(return_dist=True)`."
                )
                raise KeyError(msg)
        super().minify_adata(*args, **kwargs)

    @classmethod
    def _check_set_up(cls, adata: Cells) -> None:
        """Raise for what cannot be the cells of a model, and for a MuData that was not set up."""
        check_cells(adata)
        if isinstance(adata, MuData) and cls._get_most_recent_anndata_manager(adata) is None:
            msg = (
                "`adata` is a 'MuData' that was not set up: "
                f"`{cls.__name__}.setup_mudata(mdata, modalities={{'layer': …}})` names the "
                f"modality, one of {list(adata.mod)!r}."
            )
            raise ValueError(msg)

    def _adopt_first(self, adata: Cells, *, copy_if_view: bool) -> None:
        """Give a model without cells the first ones that it gets, as scvi-tools does."""
        check_if_view(adata, copy_if_view=copy_if_view)
        if self.adata_manager is None and self.get_anndata_manager(adata) is None:
            self._set_up_alike(adata, self.registry_)
            self._adata = adata
            self._adata_manager = self._get_most_recent_anndata_manager(adata, required=True)
            self._register_manager_for_instance(self.adata_manager)


def _as_dict(modalities: Any) -> Any:
    """Return a plain dictionary, as models are saved with; what is none is refused later."""
    return dict(modalities) if isinstance(modalities, Mapping) else modalities

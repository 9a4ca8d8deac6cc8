"""The record of what preprocessing did, so that it can be repeated on new cells."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scalex_scvi._core.blocks import Blocks
from scalex_scvi._core.columns import as_text

from ._preparation import DROPPED_PREFIXES, NewBatches, Preparation, ScaleBy
from ._profiles import ATAC
from ._transform import Transform

logger = logging.getLogger(__name__)

UNS_KEY = "scalex"
"""Where the record lies in ``adata.uns``."""

SCALE_KEY = "scalex_scale"
"""Where the maximum of each gene and batch lies in ``adata.varm``."""


@dataclass(frozen=True)
class Preprocessing:
    """The transform from counts to values in [0, 1]: fitted to a reference, applied to any cells.

    :meth:`fit` finds the features and the scale of each batch in one pass over blocks of counts;
    :meth:`apply` takes blocks of counts through them. Everything in it is a plain type, so that it
    is kept in the registry of a model and in its file.

    Attributes
    ----------
    profile
        Kind of data: ``"RNA"``, ``"ATAC"`` or ``"ADT"``.
    target_sum
        Total counts per cell after normalization; ``None`` where totals are not normalized.
    scale_by
        ``"batch"``: genes were divided by their maximum within each batch; ``"global"``: by their
        maximum over all cells.
    dropped_prefixes
        Genes whose names start with one of these were dropped before normalization.
    genes
        Genes (peaks, proteins) of the reference, in order.
    scale
        Genes × batches: the maximum of each gene in each batch, by which its normalized values are
        divided (0 for a gene without counts in the batch). Columns are batch names as strings.
    panel
        The features over which each cell is normalized, which may be more than ``genes``. Empty:
        all that the data has, less the dropped ones (RNA prepared by :func:`scalex_scvi.pp.rna`).
    normalized_over
        The features over which the cells that it was fitted to were normalized; those of the panel,
        if there is one.
    shares
        Share of each of them in the counts. Cells that lack some of them are normalized over the
        others, and brought to the total that these had: to ``target_sum`` times the sum of their
        shares. Empty: not known, all cells are brought to ``target_sum``.
    log_normalized
        Whether the cells that it was fitted to came normalized, so that it is not known how counts
        are to be normalized.
    log1p
        Whether logarithms were taken after the normalization of totals: always in RNA, by option
        in ATAC. Proteins (ADT) are normalized by the centered log-ratio in any case.
    new_batches
        What batches that are not in ``scale`` are divided by: see :class:`Preparation`.
    batch_key
        Column of ``obs`` with the batches of ``scale`` in the cells that carry this record;
        ``None``: all of them are one batch. Another record of a query may have another column.
    """

    profile: str = "RNA"
    target_sum: float | None = 1e4
    scale_by: ScaleBy = "batch"
    dropped_prefixes: tuple[str, ...] = DROPPED_PREFIXES
    genes: tuple[str, ...] = ()
    scale: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False)
    panel: tuple[str, ...] = ()
    normalized_over: tuple[str, ...] = field(default=(), repr=False)
    shares: tuple[float, ...] = field(default=(), repr=False)
    log_normalized: bool = False
    log1p: bool = True
    new_batches: NewBatches = "reference"
    batch_key: str | None = field(default=None, compare=False)

    @classmethod
    def fit(
        cls,
        adata: AnnData,
        preparation: Preparation | None = None,
        *,
        batch_key: str | None = None,
        layer: str | None = None,
        name_panel: bool = False,
    ) -> Preprocessing:
        """Fit the transform to counts, which are read in blocks and not changed.

        Parameters
        ----------
        adata
            Cells × features, counts: dense or sparse, in memory, backed, of a store or of dask.
        preparation
            What is to be done; default: RNA by its defaults.
        batch_key
            Column of ``adata.obs`` with the batches; ``None``: all cells are one batch.
        layer
            Layer with the counts, instead of ``adata.X``.
        name_panel
            Whether the record names the genes that cells are normalized over, so that a query is
            normalized over the same ones. Peaks and proteins are named in any case.

        Raises
        ------
        KeyError, TypeError, ValueError, FileNotFoundError
            See :func:`scalex_scvi.pp.rna`.
        """
        from ._prepare import fit_adata

        found = fit_adata(adata, preparation or Preparation(), batch_key, layer)
        return found.record_with_panel if name_panel else found.record

    @classmethod
    def fit_blocks(
        cls,
        blocks: Blocks,
        var: pd.DataFrame,
        batch_names: Sequence[str],
        preparation: Preparation,
        *,
        name: str,
        batch_key: str | None,
    ) -> Preprocessing:
        """Fit the transform to counts that come in blocks, with the batch of each cell.

        The record names the features that cells are normalized over.

        Parameters
        ----------
        blocks
            Cells × features.
        var
            Annotation of the features.
        batch_names
            Names of the batches.
        preparation, batch_key
            See :meth:`fit`.
        name
            What to call the counts in messages.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            See :func:`scalex_scvi.pp.rna`.
        """
        from ._fit import fit

        found = fit(blocks, var, batch_names, preparation, name=name, batch_key=batch_key)
        return found.record_with_panel

    def apply(self, block: Any, features: pd.Index, batches: Any) -> sparse.csr_matrix:
        """Take a block of counts through the transform.

        Parameters
        ----------
        block
            Cells × ``features``, counts, dense or sparse; not changed.
        features
            Names of its columns: others than the record's are left out, missing ones are zero.
        batches
            Name of the batch of each cell, as text; each must be in :attr:`scale`.

        Returns
        -------
        Cells × :attr:`genes`, CSR float32 in [0, 1].

        Raises
        ------
        KeyError
            For a batch without a scale.
        """
        names = pd.Index(np.asarray(as_text(batches)))
        unknown = names[~names.isin(self.scale.columns)].unique()
        if len(unknown):
            msg = f"No scale is known of {list(unknown[:5])!r}: {list(self.scale.columns)!r} are."
            raise KeyError(msg)
        var = pd.DataFrame(index=pd.Index(features))
        transform = Transform.plan(self, var, log_normalized=self.log_normalized, report=False)
        codes = self.scale.columns.get_indexer(names)
        return transform.with_scale(self.scale_of(self.scale.columns))(block, codes)

    def scale_of(self, names: Any) -> np.ndarray:
        """Return what batches are divided by, batches × features; 0 for unknown ones."""
        return self.scale.reindex(columns=list(names), fill_value=0).to_numpy(np.float32).T.copy()

    def scale_of_new(self) -> np.ndarray:
        """Return the geometric mean of each feature's scale over the batches that have it."""
        scale = self.scale.to_numpy(np.float64)
        if scale.shape[1] == 1:
            return scale[:, 0].astype(np.float32)
        found = scale > 0
        logarithms = np.log(scale, out=np.zeros_like(scale), where=found)
        mean = np.exp(logarithms.sum(axis=1) / np.maximum(found.sum(axis=1), 1))
        return np.where(found.any(axis=1), mean, 0).astype(np.float32)

    def to_adata(self, adata: AnnData) -> None:
        """Write the record into ``adata.uns`` and ``adata.varm``, as plain types."""
        # Names of batches are columns there, which are keys in a file.
        escaped = [_escaped(str(name)) for name in self.scale.columns]
        scale = self.scale.set_axis(escaped, axis=1)
        changed = escaped != [str(name) for name in self.scale.columns]
        adata.uns[UNS_KEY] = self.to_dict() | ({"escaped": True} if changed else {})
        adata.varm[SCALE_KEY] = scale.set_axis(adata.var_names, axis=0)

    @classmethod
    def from_adata(cls, adata: AnnData) -> Preprocessing | None:
        """Read the record, or ``None`` if ``adata`` carries none.

        The genes are those of ``adata`` now: a record stays true when genes are subset.
        """
        if UNS_KEY not in adata.uns or SCALE_KEY not in adata.varm:
            return None
        record, scale = adata.uns[UNS_KEY], adata.varm[SCALE_KEY]
        if record.get("escaped", False):
            scale = scale.set_axis([_unescaped(str(name)) for name in scale.columns], axis=1)
        return cls.from_dict(record, adata.var_names, scale)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], genes: Any, scale: pd.DataFrame) -> Preprocessing:
        """Build a record from plain types, as they come back from a file."""
        target_sum = record.get("target_sum")
        genes = tuple(map(str, genes))
        return cls(
            profile=str(record["profile"]),
            target_sum=None if target_sum is None else float(target_sum),
            scale_by="global" if record["scale_by"] == "global" else "batch",
            dropped_prefixes=tuple(str(prefix) for prefix in record["dropped_prefixes"]),
            genes=genes,
            scale=pd.DataFrame(scale).set_axis(list(genes), axis=0),
            panel=tuple(map(str, record.get("panel", ()))),
            normalized_over=tuple(map(str, record.get("normalized_over", record.get("panel", ())))),
            shares=tuple(map(float, record.get("shares", ()))),
            log_normalized=bool(record.get("log_normalized", False)),
            # Peaks were left without logarithms before there was a choice.
            log1p=bool(record.get("log1p", record["profile"] != ATAC.name)),
            # New batches had their own scale before there was a choice.
            new_batches="reference" if record.get("new_batches") == "reference" else "own",
            batch_key=record.get("batch_key"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record without genes and scale as plain types, less what is not set."""
        record: dict[str, Any] = {
            "profile": self.profile,
            "scale_by": self.scale_by,
            "dropped_prefixes": list(self.dropped_prefixes),
            "log_normalized": self.log_normalized,
            "log1p": self.log1p,
            "new_batches": self.new_batches,
        }
        if self.target_sum is not None:  # no file format for None is older than anndata 0.12
            record["target_sum"] = float(self.target_sum)
        if self.panel:
            record["panel"] = list(self.panel)
        elif self.normalized_over:
            record["normalized_over"] = list(self.normalized_over)
        if self.shares:
            record["shares"] = list(self.shares)
        if self.batch_key is not None:
            record["batch_key"] = self.batch_key
        return record

    def with_new_batches(self, scale: pd.DataFrame, batch_key: str | None) -> Preprocessing:
        """Return the record with the scale of other batches added, where they are not known."""
        known = [name for name in scale.columns if name in self.scale.columns]
        if known:
            logger.info("Batches of the reference, whose scale is known: %s.", ", ".join(known))
        new = scale.drop(columns=known)
        new.index = self.scale.index if len(self.scale.columns) else new.index
        return replace(self, scale=pd.concat([self.scale, new], axis=1), batch_key=batch_key)


def _escaped(name: str) -> str:
    """Name of a batch as a key of a file; :func:`_unescaped` undoes it."""
    key = name.replace("%", "%25").replace("/", "%2F").replace("\x00", "%00")
    return f"%={key}" if key in ("", ".", "..", "_index") else key


def _unescaped(key: str) -> str:
    return unquote(key.removeprefix("%="))

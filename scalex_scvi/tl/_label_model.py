"""Label transfer from statistics of a reference: its cells are not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi._core.measured import measured_genes
from scalex_scvi._core.threads import are_few_cells, one_thread
from scalex_scvi.pp import can_unscale, unscale

from ._calibration import folds, temperature, tempered
from ._consensus import Consensus
from ._discriminant import Discriminants, can_discriminate
from ._group_fits import GroupStandard
from ._held_out import pseudo_batches
from ._label_scores import LabelScores, point_to_lone_labels, scores_of
from ._label_statistics import KeptBatches, LabelStatistics
from ._labeled_cells import LabeledCells
from ._misfit_calibration import MisfitCalibration, Standards
from ._misfit_p_values import neighborhood_p_values
from ._misfits import MEASURES
from ._neighborhoods import N_NEIGHBORS, neighbors_by_batch
from ._pair import Pair, batches_of_query
from ._unknown import check_max_refused


@dataclass(frozen=True, eq=False)
class LabelModel:
    """Labels for new cells from statistics of a reference, which hold none of its cells.

    Gives the same as :func:`label_scores` with its defaults. The statistics are: for each label the
    mean of expression and latent, linear functions that tell it from the others in both, up to 50
    principal components of the genes, and the misfits of held-out cells that p-values are computed
    from.

    Attributes
    ----------
    labels_key
        Column of ``obs`` that had the labels.
    labels
        Their names.
    n_cells
        Number of cells of each label that the statistics are of.
    genes
        Genes whose expression is compared, in this order.
    by_latent
        Linear discriminants of the labels in the latent.
    by_ridge
        Ridge regression of the labels on the components of the expression; ``None`` in older files,
        whose labels come from discriminants alone.
    landmarks
        Statistics of each label's normalized expression.
    temperature
        Number by which the logarithms of probabilities are divided to calibrate them, at least 1.
    standards
        What held-out batches of the reference show. Older files have nothing of groups, so that
        what is usual counts, as for a reference of one batch.
    fewest_cells
        Fewest cells that each label must have (5): means of fewer cells would disclose the
        expression of single cells.
    """

    fewest_cells: ClassVar[int] = 5
    labels_key: str
    labels: tuple[str, ...]
    n_cells: tuple[int, ...]
    genes: tuple[str, ...]
    by_latent: Discriminants
    by_ridge: Discriminants | None
    landmarks: LabelStatistics
    temperature: float
    standards: Standards

    @classmethod
    def fit(
        cls,
        ref: AnnData,
        use_rep: str = "latent",
        labels_key: str = "celltype",
        *,
        batch_key: str | None = None,
    ) -> LabelModel:
        """Compute the statistics of a reference.

        Parameters
        ----------
        ref
            Prepared cells × genes, as :meth:`~scalex_scvi.SCALEXModel.get_prepared` returns them,
            with ``obsm[use_rep]`` and ``obs[labels_key]``. Cells without a label are left out.
        use_rep
            Key in ``obsm`` of the latent.
        labels_key
            Column of ``ref.obs``.
        batch_key
            Column of ``ref.obs`` with the batches, each of which is held out once.

        Returns
        -------
        The statistics, for :meth:`scores`.

        Raises
        ------
        KeyError
            If ``use_rep``, ``labels_key`` or ``batch_key`` is absent.
        ValueError
            If a label has fewer than five cells, if no cell has a label, if the cells of each label
            are all equal in ``obsm[use_rep]``, or if ``ref`` has no record of its preparation.
        """
        pair = Pair(ref, ref, use_rep, labels_key, batch_key, 1)
        _check_labels(pair.labels.value_counts(sort=False), labels_key)
        return label_model(pair, range(1, N_NEIGHBORS + 1))

    def scores(
        self,
        query: AnnData,
        use_rep: str = "latent",
        *,
        batch_key: str | None = None,
        max_refused: float = 0.05,
    ) -> LabelScores:
        """Give each query cell a label, and say how sure it is: see :func:`label_scores`.

        Parameters
        ----------
        query
            Prepared cells × the same genes, as :meth:`~scalex_scvi.SCALEXModel.get_prepared` of the
            query's model returns them, with ``obsm[use_rep]``.
        use_rep
            Key in ``obsm`` of the latent.
        batch_key
            Column of ``query.obs`` with the batches, each of which has its own offset; ``None``:
            all cells are one batch.
        max_refused
            Share of held-out reference cells, in (0, 1), that may be called unknown.

        Returns
        -------
        Labels, probabilities, p-values and which cells are unknown.

        Raises
        ------
        KeyError
            If ``use_rep`` or ``batch_key`` is absent.
        ValueError
            If the genes differ, batches are missing, or there are too few held-out cells for
            ``max_refused``.
        """
        with one_thread(are_few_cells(query.n_obs)):
            found = scores_by(self, query, use_rep, batch_key, max_refused)
        point_to_lone_labels(found, query, batch_key)
        return found

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the statistics as arrays of numbers and text, by name, for :meth:`from_arrays`."""
        statistics = self.landmarks
        arrays = {
            "labels_key": np.array(self.labels_key),
            "labels": np.array(self.labels, dtype=np.str_),
            "n_cells": np.array(self.n_cells, dtype=np.int64),
            "genes": np.array(self.genes, dtype=np.str_),
            "temperature": np.array(self.temperature),
        }
        arrays |= {f"landmarks/{field}": getattr(statistics, field) for field in _STATISTICS_FIELDS}
        for name, found in (
            ("latent", self.by_latent),
            ("expression", statistics.discriminants),
            ("ridge", self.by_ridge),
        ):
            if found is not None:
                arrays |= {
                    f"{name}/{field}": getattr(found, field) for field in _DISCRIMINANT_FIELDS
                }
        if self.standards.groups is not None:
            arrays |= {
                f"group_misfits/{field}": np.array(getattr(self.standards.groups, field))
                for field in _GROUP_FIELDS
            }
        for size, calibration in self.standards.misfits.items():
            arrays |= {
                f"held_out/{size}/{field}": getattr(calibration, field)
                for field in _CALIBRATION_FIELDS
            }
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> LabelModel:
        """Return the model that :meth:`to_arrays` was called on.

        Raises
        ------
        ValueError
            If arrays are missing, have another shape, or hold values that are not finite numbers.
        """
        try:
            found = cls._from(arrays)
        except (KeyError, TypeError, IndexError) as error:
            msg = f"This is no label model, or a part of it is missing: {error!r}."
            raise ValueError(msg) from error
        found._check(arrays)
        return found

    @classmethod
    def _from(cls, arrays: Mapping[str, np.ndarray]) -> LabelModel:
        def discriminants(name: str) -> Discriminants:
            return Discriminants(
                **{field: arrays[f"{name}/{field}"] for field in _DISCRIMINANT_FIELDS}
            )

        def discriminants_if_any(name: str) -> Discriminants | None:
            is_there = any(key.startswith(f"{name}/") for key in arrays)
            return discriminants(name) if is_there else None

        calibrations = {
            size: MisfitCalibration(
                **{field: arrays[f"held_out/{size}/{field}"] for field in _CALIBRATION_FIELDS}
            )
            for size in range(1, N_NEIGHBORS + 1)
        }
        groups = None
        if "group_misfits/highest" in arrays:
            groups = GroupStandard(
                **{field: float(arrays[f"group_misfits/{field}"]) for field in _GROUP_FIELDS}
            )
        statistics = LabelStatistics(
            **{field: arrays[f"landmarks/{field}"] for field in _STATISTICS_FIELDS},
            discriminants=discriminants_if_any("expression"),
        )
        return cls(
            labels_key=str(arrays["labels_key"]),
            labels=tuple(str(name) for name in arrays["labels"]),
            n_cells=tuple(int(n) for n in arrays["n_cells"]),
            genes=tuple(str(name) for name in arrays["genes"]),
            by_latent=discriminants("latent"),
            by_ridge=discriminants_if_any("ridge"),
            landmarks=statistics,
            temperature=float(arrays["temperature"]),
            standards=Standards(calibrations, groups),
        )

    def _check(self, arrays: Mapping[str, np.ndarray]) -> None:
        n_labels, n_genes = len(self.labels), len(self.genes)
        statistics, n_components = self.landmarks, self.landmarks.directions.shape[-1]
        n_functions = {1: 0, 2: 1}.get(n_labels, n_labels)
        wanted = {
            "n_cells": (n_labels,),
            "landmarks/used": (n_labels,),
            "landmarks/means": (n_labels, n_genes),
            "landmarks/mean": (n_genes,),
            "landmarks/directions": (n_genes, n_components),
            "landmarks/centers": (n_labels, n_components),
            "landmarks/whitening": (n_components, n_components),
            "landmarks/margins": (n_components + 1, n_labels),
            "latent/means": (n_labels, *self.by_latent.means.shape[1:]),
            "latent/weights": (n_functions, *self.by_latent.means.shape[1:]),
            "latent/intercept": (n_functions,),
        }
        for name, found in (("expression", statistics.discriminants), ("ridge", self.by_ridge)):
            if found is not None:
                wanted |= {
                    f"{name}/means": (n_labels, n_components),
                    f"{name}/weights": (n_functions, n_components),
                    f"{name}/intercept": (n_functions,),
                }
        for size, calibration in self.standards.misfits.items():
            wanted[f"held_out/{size}/known"] = (calibration.known.size,)
            for field in ("weights", "typical", "highest"):
                wanted[f"held_out/{size}/{field}"] = (len(MEASURES),)
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                msg = (
                    f"{name!r} of the label model has the shape {arrays[name].shape!r}: {shape!r}."
                )
                raise ValueError(msg)
        for name, values in arrays.items():
            if name not in _TEXT and not _is_finite(values):
                msg = f"{name!r} of the label model holds values that are no finite numbers."
                raise ValueError(msg)


def scores_by(
    model: LabelModel, query: AnnData, use_rep: str, batch_key: str | None, max_refused: float
) -> LabelScores:
    """Do what :meth:`LabelModel.scores` does, of cells that may be some of a query: say nothing."""
    check_max_refused(max_refused)
    _check_query(model, query, use_rep, batch_key)
    x, batch = unscale(query), batches_of_query(query, batch_key)
    landmarks = model.landmarks
    measured = measured_genes(query.var)
    if measured is not None:
        x, landmarks = x[:, measured], landmarks.of_genes(measured)
    neighbors = neighbors_by_batch(x, batch)
    spaces = [np.asarray(query.obsm[use_rep]), landmarks.components(x)]
    labels_by = Consensus(model.by_latent, model.landmarks.discriminants, model.by_ridge)
    shares = tempered(labels_by.shares(spaces, batch, neighbors), model.temperature)
    p, misfit = neighborhood_p_values(landmarks, model.standards, x, neighbors, max_refused)
    best = pd.Categorical.from_codes(shares.argmax(axis=1), categories=list(model.labels))
    labels = pd.Series(best, index=query.obs_names, name=model.labels_key)
    return scores_of(labels, shares, p, misfit, max_refused)


def _check_query(model: LabelModel, query: AnnData, use_rep: str, batch_key: str | None) -> None:
    if use_rep not in query.obsm:
        msg = f"`use_rep` {use_rep!r} is not in query.obsm: {list(query.obsm)!r}."
        raise KeyError(msg)
    if batch_key is not None and batch_key not in query.obs:
        msg = (
            f"`batch_key` {batch_key!r} is not a column of query.obs: "
            f"{list(query.obs.columns)!r}. If all cells are one batch, pass None."
        )
        raise KeyError(msg)
    if tuple(query.var_names) != model.genes or not can_unscale(query):
        msg = (
            f"`query` is not prepared as the reference's {len(model.genes)} genes: pass what "
            "`get_prepared()` of the query's model gives."
        )
        raise ValueError(msg)


def label_model(pair: Pair, sizes: Sequence[int]) -> LabelModel:
    """Compute the statistics of the reference of a pair, also of labels of few cells.

    Parameters
    ----------
    pair
        Its query is not used.
    sizes
        Numbers of neighbors that the cells of a query will be averaged with.

    Raises
    ------
    ValueError
        See :meth:`LabelModel.fit`.
    """
    if not can_unscale(pair.ref):
        msg = (
            "`ref` carries no record of how its expression was prepared, or is a dask array: "
            "pass what `model.get_prepared()` gives, of a model of counts in memory or a file."
        )
        raise ValueError(msg)
    if not can_discriminate(pair.points, pair.codes):
        msg = (
            f"The cells of each label in obs[{pair.labels_key!r}] do not differ in "
            f"{pair.use_rep!r}."
        )
        raise ValueError(msg)
    with one_thread(are_few_cells(pair.ref.n_obs)):
        return _statistics_of(pair, sizes)


def _statistics_of(pair: Pair, sizes: Sequence[int]) -> LabelModel:
    batches, real = pseudo_batches(pair.codes, pair.ref_batches())
    reference = LabeledCells.of(unscale(pair.ref), pair.codes, batches)
    parts = folds(pair.codes, pair.ref_batches())
    n_cells = pair.labels.value_counts(sort=False)
    return LabelModel(
        labels_key=pair.labels_key,
        labels=tuple(n_cells.index),
        n_cells=tuple(int(n) for n in n_cells),
        genes=tuple(pair.ref.var_names),
        by_latent=Discriminants.of(pair.points, pair.codes),
        by_ridge=Discriminants.by_ridge(reference.points, pair.codes),
        landmarks=KeptBatches(reference).label_statistics(),
        temperature=temperature([pair.points, reference.points], pair.codes, parts),
        standards=Standards.of(reference, sizes, learns=real),
    )


# Attributes that are saved. With their prefixes ("landmarks/means", "held_out/3/known") they name
# arrays in the files of saved references: neither may change, or old files could not be read.
_DISCRIMINANT_FIELDS = ("means", "weights", "intercept")

_STATISTICS_FIELDS = ("used", "means", "mean", "directions", "centers", "whitening", "margins")

_CALIBRATION_FIELDS = ("known", "weights", "typical", "highest")

_GROUP_FIELDS = ("typical", "highest")

_TEXT = ("labels_key", "labels", "genes")


def _is_finite(values: np.ndarray) -> bool:
    return values.dtype.kind in "iuf" and bool(np.isfinite(values).all())


def _check_labels(n_cells: pd.Series, labels_key: str) -> None:
    few = {str(name): int(n) for name, n in n_cells.items() if n < LabelModel.fewest_cells}
    if few:
        msg = (
            f"Labels of obs[{labels_key!r}] with fewer than {LabelModel.fewest_cells} cells: "
            f"{few!r}. Their means would disclose the expression of single cells. Join them "
            "with others, or set them to missing (NaN): cells without a label are left out."
        )
        raise ValueError(msg)

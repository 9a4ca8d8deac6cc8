"""Latent and labels of a query that is not in memory: part by part, each small enough to be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from threadpoolctl import threadpool_limits

from scalex_scvi._core.blocks import RowsInPlace
from scalex_scvi._core.csr_in_parts import CsrInParts
from scalex_scvi._core.dask_blocks import computed_blocks
from scalex_scvi._core.freed_memory import give_back_memory
from scalex_scvi._core.keys import LATENT_KEY
from scalex_scvi._core.seeds import DEFAULT_SEED

from ._label_model import LabelModel, scores_by
from ._label_scores import LabelScores
from ._misfit_p_values import sizes_of
from ._pair import batches_of_query
from ._unknown import check_held_out

logger = logging.getLogger(__name__)

MOST_CELLS = 20_000
"""Most cells of a part: as many as a sample of cells usually has. A type of one cell in a thousand
still has more than the 15 cells of a neighborhood there."""

MOST_THREADS = 8
"""Most parts that are in memory at once: each takes some 0.1 GB."""


class QueryParts:
    """A query in parts that fit in memory, each of which gets latent and labels by itself.

    A cell is judged beside the cells of its own batch, so that batches stay whole: the labels are
    those of the whole query. Only a batch of more than :data:`MOST_CELLS` cells is divided, at
    random, and each piece is a batch of its own then.

    Parameters
    ----------
    query
        Prepared cells; ``X`` a dask array of CSR blocks.
    batch_key
        Column of ``query.obs`` with the batches; without it all cells are one batch.
    encode
        Gives the latent of rows of ``query.X``, in several threads at once.
    """

    def __init__(
        self,
        query: AnnData,
        batch_key: str | None,
        encode: Callable[[sparse.csr_matrix], np.ndarray],
    ) -> None:
        self._query, self._encode = query, encode
        self._batch_key = batch_key if batch_key in query.obs else None
        self._batch = batches_of_query(query, self._batch_key)
        self._part_of_cell = divided(self._batch, MOST_CELLS)

    @property
    def sizes(self) -> list[int]:
        """Numbers of neighbors that the cells of these parts are averaged with."""
        return sizes_of(self._batch * self._n_parts + self._part_of_cell)

    @property
    def _n_parts(self) -> int:
        return int(self._part_of_cell.max()) + 1

    def latent_and_scores(
        self, models: Mapping[str, LabelModel], max_refused: float
    ) -> tuple[np.ndarray, dict[str, LabelScores]]:
        """Place each cell, and give it a label of each column.

        ``X`` is evaluated once, into temporary files.

        Parameters
        ----------
        models
            Statistics of the reference, by column of labels, with all of :attr:`sizes`.
        max_refused
            See :meth:`LabelModel.scores`.

        Returns
        -------
        Latent of all cells, cells × dimensions, and their scores, by column of labels.

        Raises
        ------
        ValueError
            If there are too few held-out cells for ``max_refused``.
        OSError
            If the temporary files cannot be written.
        """
        for model in models.values():
            for size in self.sizes:
                check_held_out(max_refused, len(model.standards.misfits[size].known))
        query, done = self._query, 0
        latent = RowsInPlace(query.n_obs)
        of_parts: dict[str, list[LabelScores]] = {label: [] for label in models}

        def judged(part: int) -> dict[str, LabelScores]:
            rows, key = np.flatnonzero(self._part_of_cell == part), self._batch_key
            piece = self._piece(matrix.read(part), rows)
            latent.write(rows, piece.obsm[LATENT_KEY])
            found = {}
            for label, model in models.items():
                compared = piece[:, piece.var_names.isin(model.genes)]
                found[label] = scores_by(model, compared, LATENT_KEY, key, max_refused)
            give_back_memory()
            return found

        with TemporaryDirectory(prefix="scalex-scvi-") as folder:
            blocks = computed_blocks(query.X)
            matrix = CsrInParts(Path(folder), blocks, self._part_of_cell, query.n_vars)
            with _one_part_a_thread() as pool:
                for scores in pool.map(judged, range(self._n_parts)):
                    for label, own in scores.items():
                        of_parts[label].append(own)
                    done += len(own.labels)
                    logger.info("Labels of %d of %d cells.", done, query.n_obs)
        return latent.read(), {label: self._joined(own) for label, own in of_parts.items()}

    def _piece(self, values: sparse.csr_matrix, rows: np.ndarray) -> AnnData:
        query = self._query
        return AnnData(
            values,
            obs=query.obs.iloc[rows],
            var=query.var,
            obsm={LATENT_KEY: self._encode(values)},
            varm=query.varm,  # with uns the record of the preparation
            uns=query.uns,
        )

    def _joined(self, scores: Sequence[LabelScores]) -> LabelScores:
        """Put the scores of the parts together, in the order of the cells."""
        place = np.argsort(np.argsort(self._part_of_cell, kind="stable"))

        def all_of(name: str) -> pd.Series | pd.DataFrame:
            of_parts = pd.concat([getattr(each, name) for each in scores])
            return of_parts.iloc[place].set_axis(self._query.obs_names)

        return LabelScores(**{field.name: all_of(field.name) for field in fields(LabelScores)})


@contextmanager
def _one_part_a_thread() -> Iterator[ThreadPoolExecutor]:
    """Yield as many threads as torch uses, at most eight; what they call uses none beside them.

    BLAS has one limit for the whole process; OpenMP has one for each thread, which sets its own.
    """
    n_threads = min(torch.get_num_threads(), MOST_THREADS)
    openmp = partial(threadpool_limits, 1, "openmp")
    with (
        threadpool_limits(1, "blas"),
        ThreadPoolExecutor(n_threads, initializer=openmp) as pool,
    ):
        yield pool


def divided(batch: np.ndarray, most: int) -> np.ndarray:
    """Divide cells into parts.

    Parameters
    ----------
    batch
        Batch code of each cell.
    most
        Most cells of a part.

    Returns
    -------
    Number of the part of each cell, from 0 on. A batch of at most ``most`` cells is in one part.
    """
    rng = np.random.default_rng(DEFAULT_SEED)
    part_of_cell = np.empty(len(batch), dtype=np.int64)
    part, filled = 0, 0
    for code in np.unique(batch):
        cells = np.flatnonzero(batch == code)
        n_pieces = -(-len(cells) // most)
        of_cell = rng.permutation(len(cells)) % n_pieces if n_pieces > 1 else 0
        for piece in range(n_pieces):
            own = cells if n_pieces == 1 else cells[of_cell == piece]
            if filled and filled + len(own) > most:
                part, filled = part + 1, 0
            part_of_cell[own] = part
            filled += len(own)
    return part_of_cell

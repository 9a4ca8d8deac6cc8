"""Labels of a query that is not in memory: part by part, each small enough to be."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from anndata import AnnData

from scalex_scvi._core.blocks import computed_blocks
from scalex_scvi._core.csr_in_parts import CsrInParts
from scalex_scvi._core.seeds import DEFAULT_SEED

from ._held_out import sizes_of
from ._label_model import LabelModel
from ._label_scores import LabelScores
from ._neighborhoods import EXACT
from ._pair import batches_of_query

logger = logging.getLogger(__name__)

MOST_CELLS = EXACT
"""Most cells of a part, whose neighbors then are exact: as many as a sample of cells usually has. A
type of one cell in a thousand still has more than the 15 cells of a neighborhood there."""


class QueryParts:
    """A query in parts that fit in memory, each of which gets its labels by itself.

    A cell is judged beside the cells of its own batch, so that batches stay whole: the labels are
    those of the whole query. Only a batch of more than :data:`MOST_CELLS` cells is divided, at
    random, and each piece is a batch of its own then.

    Parameters
    ----------
    query
        Prepared cells; ``X`` a dask array of CSR blocks.
    batch_key
        Column of ``query.obs`` with the batches; without it all cells are one batch.
    """

    def __init__(self, query: AnnData, batch_key: str | None) -> None:
        self._query = query
        self._batch_key = batch_key if batch_key in query.obs else None
        self._batch = batches_of_query(query, self._batch_key)
        self._part_of_cell = divided(self._batch, MOST_CELLS)

    @property
    def sizes(self) -> list[int]:
        """Numbers of neighbors that the cells of these parts are averaged with."""
        n_parts = int(self._part_of_cell.max()) + 1
        return sizes_of(self._batch * n_parts + self._part_of_cell)

    def scores(
        self, models: Mapping[str, LabelModel], use_rep: str, max_refused: float
    ) -> dict[str, LabelScores]:
        """Give each cell a label of each column.

        ``X`` is evaluated once, into temporary files.

        Parameters
        ----------
        models
            Statistics of the reference, by column of labels, with all of :attr:`sizes`.
        use_rep, max_refused
            See :meth:`LabelModel.scores`.

        Returns
        -------
        Scores of all cells, by column of labels.
        """
        found: dict[str, list[LabelScores]] = {label: [] for label in models}
        n_cells, done = self._query.n_obs, 0
        with self._read() as pieces:
            for piece in pieces:
                for label, model in models.items():
                    scores = model.scores(
                        piece, use_rep, batch_key=self._batch_key, max_refused=max_refused
                    )
                    found[label].append(scores)
                done += piece.n_obs
                logger.info("Labels of %d of %d cells.", done, n_cells)
        return {label: self._joined(of_parts) for label, of_parts in found.items()}

    @contextmanager
    def _read(self) -> Iterator[Iterator[AnnData]]:
        """Yield the cells of each part in memory, one part after the other."""
        query, parts = self._query, self._part_of_cell
        with TemporaryDirectory(prefix="scalex-scvi-") as folder:
            matrix = CsrInParts(Path(folder), computed_blocks(query.X), parts, query.n_vars)
            yield (self._piece(matrix, part) for part in range(int(parts.max()) + 1))

    def _piece(self, matrix: CsrInParts, part: int) -> AnnData:
        query, rows = self._query, np.flatnonzero(self._part_of_cell == part)
        return AnnData(
            matrix.read(part),
            obs=query.obs.iloc[rows],
            var=query.var,
            obsm={key: np.asarray(values)[rows] for key, values in query.obsm.items()},
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

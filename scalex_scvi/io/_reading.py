"""Which data are read, and which of their columns are the batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scalex_scvi._core.options import option
from scalex_scvi._core.ranges import check_share


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How :func:`scalex_scvi.io.load_counts` reads data sets and finds their batches.

    Attributes
    ----------
    batch_categories
        Names of the batches, one for each of several sources; by default 0 to N-1.
    batch_name
        Column of ``obs`` with the batches, or several columns, ``"donor,protocol"``, whose values
        are joined by ``_``.
    join
        Whether several sources are joined on the features that all have (``"inner"``), or that
        any has (``"outer"``).
    batch_key
        Column of ``obs`` for the names of several sources. Of one source, the column with the
        batches, like ``batch_name``.
    backed
        Whether to read from disk only what is used (one ``.h5ad`` file).
    fraction, n_obs
        Share or number of cells to draw at random, without changing their order.
    use_layer
        ``"X"``, or the key of a layer or of ``obsm`` to use instead, e.g. surface proteins;
        ``"raw"``: the expression in ``.raw`` (and its genes), where CELLxGENE keeps counts.
    gene_names
        Column of ``var`` with the names of genes, instead of ``var_names``: ``"feature_name"`` of
        CELLxGENE, for example. ``None``: ``var_names``, or what is unmistakably the names that
        other sources, or the reference, have (with a warning).
    min_gene_share
        Share of the reference's genes that a query must have, 0 to 1.
    genome
        Genome whose features are used where a file of 10x Genomics or Parse has several,
        ``"GRCh38"`` for example, or ``"all"``: see :func:`scalex_scvi.io.read_file`.
    """

    batch_categories: Sequence[str] | None = option(None, "names of several sources (0 to N-1)")
    batch_name: str = option("batch", "column of obs with the batches; 'a,b' combines columns")
    join: Literal["inner", "outer"] = option("inner", "features that all sources have, or any")
    batch_key: str = option(
        "batch",
        "of several sources, the column for their names; of one, the same as --batch-name",
    )
    backed: bool = option(False, "read from disk what is used")
    fraction: float | None = option(None, "share of cells to draw")
    n_obs: int | None = option(None, "number of cells to draw")
    use_layer: str = option("X", "layer or key of obsm to use, or 'raw'")
    gene_names: str | None = option(None, "column of var with the names of genes")
    min_gene_share: float = option(0.3, "share of the reference's genes that a query must have")
    genome: str | None = option(None, "genome to use where a file has several, or 'all'")

    def __post_init__(self) -> None:
        check_share(self.min_gene_share, name="min_gene_share", zero=True)

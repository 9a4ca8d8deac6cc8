"""Options of reading: which data are read, and which of their columns holds the batches."""

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
        are joined by ``_``. ``"batch"`` as in the published package.
    join
        Features that all sources have (``"inner"``, so that no value is made up), or that any
        source has (``"outer"``, zeros where a source lacks them).
    batch_key
        For several sources, the column of ``obs`` for their names. For one source, the column with
        the batches, like ``batch_name``.
    backed
        Whether to read only the drawn cells of one ``.h5ad`` file, for one that does not fit into
        memory. A query of which all cells are used is read in blocks, whatever its size.
    fraction, n_obs
        Share in (0, 1], or number, of cells to draw at random; their order stays. ``None``: all.
    use_layer
        ``"X"``, or the key of a layer or of ``obsm`` to use instead, e.g. surface proteins;
        ``"raw"``: the expression in ``.raw`` (and its genes), where CELLxGENE keeps counts.
    gene_names
        Column of ``var`` with the names of genes, e.g. ``"feature_name"`` of CELLxGENE. ``None``:
        ``var_names``; if these are clearly of another kind (Ensembl ids, symbols) than the names of
        other sources, or of the reference, a column with names of that kind, with a warning.
    min_gene_share
        Share of the reference's genes, in [0, 1], that a query must have. 0.3, since most genes of
        a query with fewer would have to be guessed.
    genome
        Genome whose features are used where a file of 10x Genomics or Parse has several,
        ``"GRCh38"`` for example, or ``"all"``: see :func:`scalex_scvi.io.read_file`.

    Raises
    ------
    TypeError
        If ``batch_name`` or ``batch_key`` is no text.
    ValueError
        If ``min_gene_share`` is out of range.
    """

    batch_categories: Sequence[str] | None = option(None, "batch name of each source (0 to N-1)")
    batch_name: str = option("batch", "column of obs with the batches; 'a,b' combines columns")
    join: Literal["inner", "outer"] = option("inner", "features that all sources have, or any")
    batch_key: str = option(
        "batch",
        "of several sources, the column for their names; of one, the same as --batch-name",
    )
    backed: bool = option(False, "read from disk what is used; a query in blocks")
    fraction: float | None = option(None, "share of cells to draw")
    n_obs: int | None = option(None, "number of cells to draw")
    use_layer: str = option("X", "layer or key of obsm to use, or 'raw'")
    gene_names: str | None = option(None, "column of var with the names of genes")
    min_gene_share: float = option(0.3, "share of the reference's genes that a query must have")
    genome: str | None = option(None, "genome to use where a file has several, or 'all'")

    def __post_init__(self) -> None:
        check_share(self.min_gene_share, name="min_gene_share", zero=True)
        for name in ("batch_name", "batch_key"):
            column = getattr(self, name)
            if not isinstance(column, str):
                msg = (
                    f"`{name}` must be the name of a column, got {column!r}. Several columns are "
                    "combined by `batch_name='a,b'`."
                )
                raise TypeError(msg)

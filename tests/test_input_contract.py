"""What happens to bad input, at every entry point: one list of cases, and the table in the docs.

`python tests/test_input_contract.py` writes the table into docs/input_contract.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx

pytestmark = pytest.mark.usefixtures("narrow")

PAGE = Path(__file__).parents[1] / "docs" / "input_contract.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"
GENES = [f"GENE{i}" for i in range(60)]
FAST = {
    "min_features": 0,
    "max_iteration": 4,
    "ignore_umap": True,
    "progress_bar": False,
    "show": False,
}


@dataclass
class Reference:
    """One small trained model, in memory and as a run folder."""

    model: sx.SCALEXModel
    folder: Path


def good_cells(seed: int = 0, n_cells: int = 60) -> AnnData:
    adata = simulate_counts(n_cells, n_batches=2, seed=seed)
    adata.var_names = GENES
    return adata


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("contract") / "reference"
    sx.SCALEX(good_cells(), outdir=folder, **FAST)
    adata = good_cells()
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = sx.SCALEXModel(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, **QUIET)
    return Reference(model, folder)


# Entry points: what they are called in the table, and the call.
REFERENCES: dict[str, Callable[[Any, Reference], Any]] = {
    "SCALEX": lambda cells, ref: sx.SCALEX(cells, **FAST),
    "integrate": lambda cells, ref: sx.integrate(cells, "batch", max_steps=2, **QUIET),
    "setup_anndata": lambda cells, ref: sx.SCALEXModel.setup_anndata(cells, batch_key="batch"),
    "pp.rna": lambda cells, ref: sx.pp.rna(cells, batch_key="batch", n_top_features=20),
}
QUERIES: dict[str, Callable[[Any, Reference], Any]] = {
    "SCALEX(projection)": lambda cells, ref: sx.SCALEX(
        cells, projection=ref.folder, repeat=True, **FAST
    ),
    "load_query_data": lambda cells, ref: sx.SCALEXModel.load_query_data(cells, ref.model),
    "map_query": lambda cells, ref: sx.map_query(cells, ref.model),
    "pp.prepare_query": lambda cells, ref: sx.pp.prepare_query(
        cells, ref.model.preprocessing, batch_key="batch"
    ),
    "get_latent_representation": lambda cells, ref: ref.model.get_latent_representation(cells),
}
ENTRIES = REFERENCES | QUERIES


@dataclass(frozen=True)
class Outcome:
    """What a call does: an error or, without one, a warning or nothing, and what is said."""

    error: type[Exception] | None = None
    says: str = ""

    @property
    def cell(self) -> str:
        """In the table."""
        if self.error is not None:
            return "error"
        return "works, warns" if self.says else "works"


WORKS = Outcome()


def refused(says: str, error: type[Exception] = ValueError) -> Outcome:
    return Outcome(error, says)


def warns(says: str) -> Outcome:
    return Outcome(None, says)


@dataclass(frozen=True)
class Case:
    """A kind of input: how it is made of good cells, and what comes of it.

    `outcome` holds for all entry points but those in `but`.
    """

    name: str
    make: Callable[[AnnData, Path], Any]
    outcome: Outcome
    but: Mapping[str, Outcome] = field(default_factory=dict)

    def at(self, entry: str) -> Outcome:
        return self.but.get(entry, self.outcome)


def changed(change: Callable[[AnnData], Any]) -> Callable[[AnnData, Path], Any]:
    """Good cells with a change in place."""

    def make(adata: AnnData, folder: Path) -> AnnData:
        change(adata)
        return adata

    return make


def first_value(value: float) -> Callable[[AnnData, Path], Any]:
    def change(adata: AnnData) -> None:
        adata.X = adata.X.toarray()
        adata.X[0, 0] = value

    return changed(change)


def in_batch(name: str, values: Callable[[AnnData], Any]) -> Callable[[AnnData, Path], Any]:
    def change(adata: AnnData) -> None:
        rows = (adata.obs["batch"] == name).to_numpy()
        new = values(adata[rows].copy())
        adata.X = adata.X.toarray()
        adata.X[rows] = new

    return changed(change)


def logarithms(adata: AnnData) -> np.ndarray:
    sc.pp.normalize_total(adata, target_sum=1e4)
    return np.log1p(adata.X.toarray())


def take(**parts: Any) -> Callable[[AnnData, Path], Any]:
    """Cells made anew of some parts; each is a value or a function of the good cells."""

    def make(adata: AnnData, folder: Path) -> AnnData:
        new = {"X": adata.X, "obs": adata.obs, "var": adata.var}
        new |= {name: part(adata) if callable(part) else part for name, part in parts.items()}
        return AnnData(**new)

    return make


def batches(values: Callable[[AnnData], Any]) -> Callable[[AnnData, Path], Any]:
    def change(adata: AnnData) -> None:
        adata.obs["batch"] = values(adata)

    return changed(change)


def named(names: list[str]) -> Callable[[AnnData, Path], Any]:
    return changed(lambda adata: setattr(adata, "var_names", names))


def read_lazily(adata: AnnData, folder: Path) -> AnnData:
    pytest.importorskip("dask")
    adata.write_h5ad(folder / "cells.h5ad")
    return ad.experimental.read_lazy(folder / "cells.h5ad")


def symbols_in_a_column(adata: AnnData) -> None:
    adata.var["feature_name"] = GENES
    adata.var_names = [f"ENSG{i:011d}" for i in range(60)]


def everywhere(outcome: Outcome, entries: Mapping[str, Any]) -> dict[str, Outcome]:
    return dict.fromkeys(entries, outcome)


IN_PP = ("pp.rna", "pp.prepare_query")
BOTH_CALLS = ("SCALEX", "SCALEX(projection)")
NOT_COUNTS = "does not look like counts"

CASES = [
    Case("AnnData of counts", changed(lambda adata: None), WORKS),
    Case(
        "MuData",
        lambda adata, folder: mudata.MuData({"rna": adata}),
        refused(r"'MuData'.*mdata\['rna'\]", TypeError),
    ),
    Case("DataFrame", lambda adata, f: adata.to_df(), refused("'DataFrame'.*AnnData", TypeError)),
    Case("dict", lambda adata, folder: {"a": adata}, refused("'dict'.*as a list", TypeError)),
    Case("array", lambda adata, folder: adata.X.toarray(), refused("'ndarray'", TypeError)),
    Case(
        "path of no file",
        lambda adata, folder: str(folder / "no.h5ad"),
        refused("'str'; allowed is an AnnData.*scalex_scvi.io.read", TypeError),
        everywhere(refused("There is no file", FileNotFoundError), BOTH_CALLS),
    ),
    Case(
        "obs read lazily",
        read_lazily,
        refused("read lazily", TypeError),
        everywhere(WORKS, IN_PP),
    ),
    Case("no cells", lambda adata, folder: adata[:0].copy(), refused("empty|No cell")),
    Case("no genes", lambda adata, folder: adata[:, :0].copy(), refused("empty|No cell")),
    Case("no X", take(X=None), refused("X` is None|no X|has no matrix")),
    Case("NaN", first_value(np.nan), refused("1 values that are NaN or infinite")),
    Case("infinite values", first_value(np.inf), refused("1 values that are NaN or infinite")),
    Case("negative values", first_value(-1), refused("negative values")),
    Case(
        "zeros only",
        take(X=lambda adata: adata.X * 0),
        refused("no value other than zero"),
    ),
    Case(
        "a batch of zeros only",
        in_batch("batch1", lambda adata: 0),
        warns(r"no value other than zero in the batches \['batch1'\]"),
    ),
    Case("log-normalized values", take(X=logarithms), refused(NOT_COUNTS)),
    Case(
        "log-normalized values in one batch",
        in_batch("batch1", logarithms),
        refused(rf"{NOT_COUNTS}.*\['batch1'\], while it does in \['batch0'\]"),
    ),
    Case(
        "masked array",
        take(X=lambda adata: np.ma.masked_greater(adata.X.toarray(), 50)),
        refused("masked array", TypeError),
    ),
    Case(
        "text as values",
        take(X=lambda adata: adata.X.toarray().astype(str)),
        refused("holds no real numbers", TypeError),
    ),
    Case(
        "no column of batches",
        changed(lambda adata: adata.obs.drop(columns="batch", inplace=True)),
        refused("'batch'", KeyError),
        {"SCALEX(projection)": warns(r"The query has no \['batch'\]: its cells are one batch")},
    ),
    Case(
        "a batch is missing",
        batches(lambda adata: [None, *adata.obs["batch"].astype(str)[1:]]),
        refused("is missing .NaN or None. for 1 of 60 cells"),
    ),
    Case(
        "a batch of one cell",
        batches(lambda adata: ["lone", *adata.obs["batch"].astype(str)[1:]]),
        WORKS,
        everywhere(refused(r"one cell: \['lone'\].*Merge it"), REFERENCES),
    ),
    Case("integer batches", batches(lambda adata: np.arange(60) % 2), WORKS),
    Case(
        "batches 1 and '1'",
        batches(lambda adata: pd.Series([1, "1", "b"] * 20, adata.obs_names, dtype=object)),
        WORKS,
    ),
    Case(
        "dates as batches",
        batches(lambda adata: pd.to_datetime(["2024-01-01", "2024-01-02"] * 30)),
        WORKS,
    ),
    Case(
        "gene names that repeat",
        named(["GENE1", *GENES[1:]]),
        refused(r"more than once, for example \['GENE1'\]"),
    ),
    Case(
        "10 of 60 genes of the reference",
        lambda adata, folder: adata[:, :10].copy(),
        refused("only 10 of the 60 genes of the reference.*`min_gene_share`"),
        everywhere(WORKS, REFERENCES),
    ),
    Case(
        "genes of mouse on human",
        named([f"Gene{i}" for i in range(60)]),
        refused("another species.*orthologs"),
        everywhere(WORKS, REFERENCES),
    ),
    Case(
        "Ensembl ids on symbols",
        named([f"ENSG{i:011d}" for i in range(60)]),
        refused(r"no Ensembl ids\. If a column of var holds symbols"),
        everywhere(WORKS, REFERENCES),
    ),
    Case(
        "Ensembl ids, with the symbols in a column",
        changed(symbols_in_a_column),
        warns(r"var\['feature_name'\] has them, and is used"),
        everywhere(WORKS, REFERENCES),
    ),
]


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_happens(
    reference: Reference,
    case: Case,
    entry: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = case.at(entry)
    cells = case.make(good_cells(seed=3), tmp_path)
    if expected.error is not None:
        with pytest.raises(expected.error, match=f"(?s){expected.says}"):
            ENTRIES[entry](cells, reference)
        return
    caplog.set_level(logging.WARNING, "scalex_scvi")
    caplog.clear()
    ENTRIES[entry](cells, reference)
    said = "\n".join(record.getMessage() for record in caplog.records)
    if expected.says:
        assert re.search(expected.says, said), said


def table() -> str:
    """Kind of input × entry point, in Markdown."""
    lines = ["| input | " + " | ".join(f"`{entry}`" for entry in ENTRIES) + " |"]
    lines.append("| --- |" + " --- |" * len(ENTRIES))
    lines += [
        f"| {case.name} | " + " | ".join(case.at(entry).cell for entry in ENTRIES) + " |"
        for case in CASES
    ]
    return "\n".join(lines) + "\n"


def test_the_page_says_so() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table()


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")

"""The examples of the documentation run: of the page, and of the docstrings.

`make docs` runs the page as it stands; here its trainings are short.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from conftest import QUIET, simulate_counts
from mudata import MuData

import scalex_scvi as sx

pytestmark = pytest.mark.usefixtures("narrow")

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples.md"
SHORT = {"max_steps": 20} | QUIET


@pytest.fixture
def short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    train = sx.SCALEXModel.train

    def short(self: sx.SCALEXModel, **kwargs: Any) -> None:
        train(self, **(kwargs | SHORT))

    monkeypatch.setattr(sx.SCALEXModel, "train", short)


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """The page switches messages off, as a notebook does, for all that comes after."""
    before = logging.root.manager.disable
    yield
    logging.disable(before)


def cells_of_code() -> list[str]:
    found = re.findall(r"```\{code-cell\} python\n(.*?)```", EXAMPLES.read_text("utf-8"), re.DOTALL)
    return [re.sub(r"^:.*\n", "", cell, flags=re.MULTILINE) for cell in found]


def test_the_page_of_examples_runs(
    short_trainings: None, logging_as_before: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALEX_SCVI_CACHE", str(tmp_path / "cache"))
    pytest.importorskip("scib_metrics", reason="needs the extra 'benchmark'")
    pytest.importorskip("dask", reason="needs the extra 'scale'")
    scope: dict[str, Any] = {}
    with matplotlib.rc_context():
        for number, code in enumerate(cells_of_code()):
            ast.parse(code)
            exec(compile(code, f"cell {number} of {EXAMPLES.name}", "exec"), scope)
        matplotlib.pyplot.close("all")
    # What the last cells come to: of all that ran, these have a value to be right or wrong.
    assert scope["to_share"].adata.X.nnz == 0
    assert scope["logits"].shape == (64, 500)
    assert scope["run"].read_adata().n_obs == 200


# Docstrings with an example, in an order in which one may use what another left.
WITH_EXAMPLES = [
    sx.datasets.pancreas,
    sx.tl.place_on_map,
    sx.SCALEXModel,
    sx.SCALEXModel.setup_mudata,
    sx.pl.store_colors,
    sx.references.save,
    sx.references.load,
    sx.references.available,
    sx.references.push,
]


class IfGiven(doctest.OutputChecker):
    """Compare what an example shows with what it says, where it says it."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def test_the_examples_of_docstrings_run(
    short_trainings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALEX_SCVI_CACHE", str(tmp_path / "cache"))
    adata, query = simulate_counts(), simulate_counts(60, n_batches=1, seed=1)
    query.obs["batch"] = "new"
    for cells in (adata, query):
        cells.layers["counts"] = cells.X.copy()
    mdata = MuData({"rna": adata.copy(), "adt": adata[:, :5].copy()})
    mdata.obs["batch"] = adata.obs["batch"]
    scope = {"adata": adata, "query": query, "mdata": mdata, "SCALEXModel": sx.SCALEXModel}
    runner = doctest.DocTestRunner(checker=IfGiven())
    for place in WITH_EXAMPLES:
        text = inspect.getdoc(place) or ""
        own = dict(scope)  # the folder is shared
        examples = doctest.DocTestParser().get_doctest(text, own, place.__name__, None, None)
        assert examples.examples, place
        said: list[str] = []
        assert runner.run(examples, out=said.append, clear_globs=False).failed == 0, "".join(said)
    assert query.obsm["X_scalex"].shape == (60, 10)


def test_no_example_of_a_docstring_is_left_out() -> None:
    root = Path(sx.__file__).parent
    with_examples = {
        p for p in root.rglob("*.py") if re.search("^ *>>> ", p.read_text("utf-8"), re.M)
    }
    run = {Path(inspect.getfile(inspect.unwrap(place))) for place in WITH_EXAMPLES}
    assert with_examples == run

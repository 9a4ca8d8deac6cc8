"""The notebooks in ``tutorials/`` run from top to bottom, and are committed as they ran."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import real_data
from forked import start_kernel

TUTORIALS = Path(__file__).parent.parent / "tutorials"
NAMES = [
    "1_integration_pbmc",
    "2_projection_label_transfer",
    "3_integration_atac",
    "4_cross_modality",
    "5_scvi_tools",
    "6_scvi_tools_in_depth",
    "7_cite_seq",
    "8_spatial",
    "9_differential_expression",
    "10_million_cells",
    "11_coming_from_scalex",
]
LARGEST = 1_500_000  # bytes
CELL_TIMEOUT = 900  # seconds
STEPS = 8  # of each training: enough for every cell of the notebooks to have something to show
LONGER = {"9_differential_expression": 60}
# Before each notebook: nothing of the one before is left, but what is imported and compiled. As the
# notebooks train, ours and scVI's, they would take half of the time of all tests. Our default
# training itself is tested on real data (test_real_data.py).
START = """
%reset -f
%matplotlib inline
import gc
import os
import matplotlib
import scvi
import scalex_scvi.model._training
import scalex_scvi.pl._figure
gc.freeze()  # what is imported: the collections of each reset would go through it
matplotlib.rcdefaults()
matplotlib.rcParams["figure.dpi"] = scalex_scvi.pl._figure.DPI = 30  # nobody looks at them
os.chdir({folder!r})
os.environ["SCALEX_SCVI_TUTORIAL"] = {source!r}
scalex_scvi.model._training.TrainingMixin._steps = lambda self, recipe: {steps}
def shortened(train):
    def few(self, max_epochs=2, **how):
        return train(self, max_epochs=min(max_epochs, 5), **how)
    return few
if scvi.model.SCVI.train.__name__ != "few":
    scvi.model.SCVI.train = shortened(scvi.model.SCVI.train)
"""


def _import(name: str) -> ModuleType:
    return pytest.importorskip(name, reason=f"{name} is not installed (extra 'tutorials')")


def read(name: str) -> dict:
    """Read a committed notebook."""
    return json.loads((TUTORIALS / f"{name}.ipynb").read_text(encoding="utf-8"))


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds_of_outputs(notebook: dict) -> list[list[tuple[str, ...]]]:
    """Return the media types that each code cell shows, less what it prints."""
    return [
        [tuple(sorted(out["data"])) for out in cell["outputs"] if "data" in out]
        for cell in code_cells(notebook)
    ]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A kernel of the running interpreter: one, as imports and compilation take much time."""
    _import("ipykernel")
    file = tmp_path_factory.mktemp("kernel") / "connection.json"

    class Started(_import("jupyter_client").KernelManager):
        has_kernel = True  # not of this manager

    manager = Started(connection_file=str(file), owns_kernel=False)
    manager.write_connection_file()
    process = start_kernel(file)
    yield manager
    process.kill()
    process.join()


def execute(name: str, folder: Path, kernel: Any, *, source: str) -> tuple[dict, list[Path]]:
    """Run a copy of a notebook in an empty folder, training shortly.

    Returns the notebook with its new outputs, and what it left in the folder.
    """
    nbclient, nbformat = _import("nbclient"), _import("nbformat")
    notebook = nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)
    start = START.format(folder=str(folder), source=source, steps=LONGER.get(name, STEPS))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(start))
    client = nbclient.NotebookClient(notebook, km=kernel, timeout=CELL_TIMEOUT)
    try:
        client.execute()  # raises the error of a cell, with its traceback
    finally:
        client.kc.stop_channels()
    del notebook.cells[0]
    return notebook, list(folder.iterdir())


def test_these_notebooks_exist_and_are_listed() -> None:
    assert sorted(path.stem for path in TUTORIALS.glob("*.ipynb")) == sorted(NAMES)
    readme = (TUTORIALS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\((\w+)\.ipynb\)", readme) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_committed_as_it_ran(name: str) -> None:
    path = TUTORIALS / f"{name}.ipynb"
    assert path.stat().st_size < LARGEST
    notebook = read(name)
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = {output["output_type"] for output in outputs}
    assert kinds <= {"execute_result", "display_data"}  # nothing printed, no warning, no error
    assert any("image/png" in output["data"] for output in outputs)
    text = "".join("".join(o["data"].get("text/plain", [])) for o in outputs)
    assert not re.search(r"/(root|home|tmp|work|Users)/", text)


@pytest.mark.parametrize("name", NAMES)
def test_runs_on_the_embedded_data(name: str, tmp_path: Path, kernel: Any) -> None:
    notebook, left = execute(name, tmp_path, kernel, source="embedded")
    assert left == []
    # The committed outputs belong to this code: each cell shows what it showed.
    assert kinds_of_outputs(notebook) == kinds_of_outputs(read(name))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("2_projection_label_transfer", "pancreas_3study_cepo"),
        ("3_integration_atac", "granja_bmmc_atac_peaks"),
    ],
)
def test_runs_on_small_real_data(name: str, data: str, tmp_path: Path, kernel: Any) -> None:
    real_data(data)  # or skip
    _, left = execute(name, tmp_path, kernel, source="small")
    assert left == []

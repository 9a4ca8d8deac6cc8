"""What the library says of its arguments is said in the shell of the shell's options."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from conftest import simulate_counts

from scalex_scvi import cli
from scalex_scvi.cli._config import subparsers
from scalex_scvi.cli._wording import shell_wording

pytestmark = pytest.mark.usefixtures("narrow")

FAST = ["--min-features", "0", "--max-steps", "8", "--ignore-umap"]


def log_normalized(counts: AnnData) -> AnnData:
    adata = counts.copy()
    adata.X = np.log1p(counts.X.toarray() * 0.37)
    return adata


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cells of several kinds, and the run ``ref``."""
    folder = tmp_path_factory.mktemp("words")
    counts = simulate_counts(60, 20, 2)
    few = simulate_counts(30, 20, 1)
    few.var_names = [*few.var_names[:4], *(f"other{i}" for i in range(16))]
    for name, adata in {"k": counts, "log": log_normalized(counts), "few": few}.items():
        adata.write_h5ad(folder / f"{name}.h5ad")
    argv = ["integrate", str(folder / "k.h5ad"), "-o", str(folder / "ref"), *FAST, "--quiet"]
    assert cli.main(argv) == 0
    return folder


ERRORS = {
    "not counts": (
        f"integrate log.h5ad -o out {' '.join(FAST)}",
        ["(see --use-layer)", ": --log-normalized to use", ", --no-log-normalized if they are"],
    ),
    "too strict": ("integrate k.h5ad -o out", ["has --min-features 600 genes", "Lower --min-fea"]),
    "learning rate": ("integrate k.h5ad -o out --min-features 0 --lr -1", ["--lr must be a fin"]),
    "batch": ("integrate k.h5ad -o out --batch-name x", ["--batch-name 'x': there is no column"]),
    "features": (
        "integrate k.h5ad -o out --min-features 0 --n-top-features x",
        ["--n-top-features 'x' is neither"],
    ),
    "a half": (
        "integrate k.h5ad -o out --fraction 1.5",
        ["--fraction is a share and must be in (0, 1]"],
    ),
    "few genes": (
        "project few.h5ad -r ref -o out",
        ["pass --min-gene-share below 0.2", "(--min-gene-share)"],
    ),
    "label": ("project k.h5ad -r ref -o out --label x", ["--label 'x' is not a column of the ref"]),
    "own reference": ("project k.h5ad -r ref -o ref", ["--outdir 'ref' is the reference"]),
    "batch to decode": ("impute ref --batch x -o out.h5ad", ["--batch ['x'] is not a batch"]),
    "color": ("plot ref meta --color x -o out.png", ["--color 'x' is not a column"]),
    "scored labels": ("assess ref --label x", ["--label 'x' is not a column"]),
    "representation": (
        "transfer ref k.h5ad --rep x -o out.csv",
        ["--use-rep 'x' is not in ref.obsm"],
    ),
    "share": (
        "transfer ref k.h5ad --unknown --max-refused 2 -o out.csv",
        ["--max-refused is a sh"],
    ),
}


@pytest.mark.parametrize(("typed", "said"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_name_options(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    typed: str,
    said: list[str],
) -> None:
    monkeypatch.chdir(place)
    assert cli.main([*typed.split(), "--quiet"]) == 2
    line = capsys.readouterr().err
    assert [words for words in said if words not in line] == []
    assert "`" not in line


def test_warnings_name_options(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cells = ad.read_h5ad(place / "k.h5ad")
    poor = cells.X.toarray()
    poor[:20, 1:] = 0
    cells.X = poor
    cells.write_h5ad(tmp_path / "poor.h5ad")
    argv = ["integrate", str(tmp_path / "poor.h5ad"), "-o", str(tmp_path / "out"), *FAST]
    assert cli.main([*argv, "--min-features", "2"]) == 0
    assert "--min-features removed 20 of 60 cells" in (said := capsys.readouterr().err)
    assert "Pass --min-features 0 to keep all cells." in said


SPELLED = {
    "an argument of another command": ("integrate", "see `transform_batch=2`", None),
    "no argument": ("integrate", "call `load_query_data`, `train()` or `model.train`", None),
    "text": ("integrate", "`batch_name='a, b'` joins", "--batch-name 'a, b' joins"),
    "a list": ("integrate", "`batch_categories=['a', 'b']`", "--batch-categories a b"),
    "a switch": ("integrate", "`resume=True`", "--resume"),
    "no switch": ("integrate", "`resume=False`", "no --resume"),
    "nothing": ("integrate", "`label=None`", "no --label"),
    "the published name": ("integrate", "`max_iteration=10`", "--max-steps 10"),
    "an ellipsis": ("integrate", "`n_obs=…`", "--n-obs …"),
    "as one letter": ("integrate", "`outdir`", "--outdir"),
    "the batch to decode": ("impute", "`transform_batch` 'x'", "--batch 'x'"),
}


@pytest.mark.parametrize(("command", "said", "expected"), SPELLED.values(), ids=SPELLED.keys())
def test_spelling(command: str, said: str, expected: str | None) -> None:
    worded = shell_wording(subparsers(cli.build_parser())[command])
    assert worded(said) == (said if expected is None else expected)

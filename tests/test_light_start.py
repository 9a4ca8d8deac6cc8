"""What is imported before anything is asked for: nothing that is slow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_script

HEAVY = ("torch", "scvi", "scanpy", "anndata", "pandas", "numpy", "matplotlib", "lightning")
HEAVY += ("jax", "numba", "scib_metrics")
REPORT = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
STARTS = {
    "import": "import scalex_scvi; scalex_scvi.__version__",
    "recipes": "import scalex_scvi as sx; sx.train.QUICK",
    "help": "from scalex_scvi.cli import main; main(['--help'])",
    "help of a command": "from scalex_scvi.cli import main; main(['integrate', '--help'])",
    "version": "from scalex_scvi.cli import main; main(['--version'])",
    "mistake": "from scalex_scvi.cli import main; main(['integrate', '--nonsense'])",
    "published command": "from scalex_scvi.cli import scalex_main; scalex_main(['--help'])",
}


@pytest.mark.parametrize("code", STARTS.values(), ids=STARTS.keys())
def test_nothing_slow_is_imported(code: str) -> None:
    program = f"try:\n    {code}\nexcept SystemExit: pass\n{REPORT}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1] == "[]", ended.stderr


MAP = """
import sys
import numpy as np
import scalex_scvi as sx
from anndata import AnnData
cells = AnnData(obsm={"latent": np.random.default_rng(0).normal(size=(300, 10))})
sx.tl.embed(cells)
assert "X_umap" in cells.obsm and "leiden" in cells.obs
print([name for name in ("umap", "pynndescent") if name in sys.modules], file=sys.stderr)
"""


def test_a_map_needs_nothing_that_numba_compiles_for_half_a_minute(tmp_path: Path) -> None:
    """Nor do the libraries that are imported before it begins."""
    script = tmp_path / "map.py"
    script.write_text(MAP)
    code, errors = run_script(script, folder=tmp_path)
    assert code == 0, errors
    assert errors.splitlines()[-1] == "[]", errors

"""The quick start of the README runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import QUIET, simulate_counts

import scalex_scvi as sx

README = Path(__file__).parent.parent / "README.md"


def test_python_quick_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    train = sx.SCALEXModel.train
    monkeypatch.setattr(
        sx.SCALEXModel, "train", lambda self: train(self, max_epochs=2, lr=2e-3, **QUIET)
    )
    monkeypatch.chdir(tmp_path)
    names = {"batch0": "donor1", "batch1": "donor2"}
    counts = simulate_counts(n_genes=900, n_batches=2)
    new_counts = simulate_counts(60, n_genes=900, n_batches=1, seed=1)
    counts.obs["batch"] = counts.obs["batch"].cat.rename_categories(names)
    new_counts.obs["batch"] = "donor3"
    del new_counts.obs["celltype"]
    scope = {"counts": counts, "new_counts": new_counts}
    exec(code, scope)
    assert scope["query"].obsm["latent"].shape == (60, 10)
    assert scope["query"].obs["celltype"].isin(["type0", "type1", "type2"]).all()
    assert scope["expression"].shape == scope["adata"].shape
    assert np.isfinite(scope["expression"].to_numpy()).all()


def test_the_commands_exist() -> None:
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

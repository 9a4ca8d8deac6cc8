"""Files are whole or absent; inputs are read or refused by name."""

from __future__ import annotations

import logging
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from anndata import AnnData
from conftest import simulate_counts

from scalex_scvi._core.files import whole_file
from scalex_scvi.io import RunFolder, read


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_one_source_is_returned_as_it_is(counts: AnnData, tmp_path: Path) -> None:
    assert read(counts) is counts
    counts.write_h5ad(tmp_path / "a.h5ad")
    assert read(tmp_path / "a.h5ad").shape == counts.shape


def test_several_sources_are_batches(counts: AnnData, tmp_path: Path) -> None:
    counts.write_h5ad(tmp_path / "a.h5ad")
    other = simulate_counts(30, n_genes=50, seed=1)
    other.obs["donor"] = "d1"
    both = read([str(tmp_path / "a.h5ad"), other])
    assert list(both.obs["batch"].cat.categories) == ["0", "1"]
    assert both.shape == (180, 50)
    assert both.obs_names.is_unique
    assert both.obs["donor"].isna().sum() == 150
    named = read([counts, other], batch_key="tech", batch_categories=["A", "B"])
    assert set(named.obs["tech"]) == {"A", "B"}


def test_a_source_that_is_given_twice_is_named(
    counts: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts.write_h5ad(tmp_path / "a.h5ad")
    other = counts.copy()
    (tmp_path / "link.h5ad").symlink_to(tmp_path / "a.h5ad")
    read([tmp_path / "a.h5ad", counts, other])
    assert "is given" not in caplog.text
    read([tmp_path / "a.h5ad", str(tmp_path / "link.h5ad")])
    assert "a.h5ad' is given 2 times" in caplog.text
    caplog.clear()
    read([other, counts, other])
    assert "Source 0 is given 2 times" in caplog.text


def test_bad_sources(counts: AnnData, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file '.*nowhere.h5ad'"):
        read(tmp_path / "nowhere.h5ad")
    broken = tmp_path / "broken.h5ad"
    broken.write_bytes(b"not hdf5")
    with pytest.raises(ValueError, match=r"broken.h5ad' cannot be read"):
        read(broken)
    with pytest.raises(ValueError, match=r"a.pdf' is of an unknown format. Allowed are .h5ad"):
        other_format = tmp_path / "a.pdf"
        other_format.write_text("x")
        read(other_format)
    with pytest.raises(ValueError, match="2 different names, one for each source"):
        read([counts, counts], batch_categories=["A", "A"])
    with pytest.raises(TypeError, match="`batch_categories` 'AB' must be a list"):
        read([counts, counts], batch_categories="AB")
    other = simulate_counts()
    other.var_names = [f"x{i}" for i in range(60)]
    with pytest.raises(ValueError, match="no gene in common"):
        read([counts, other])
    with pytest.raises(ValueError, match="`sources` is empty"):
        read([])


def test_run_folder_logs_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.run():
        logging.getLogger("scalex_scvi.something").info("a message")
    assert "a message" in (folder.path / "log.txt").read_text()
    assert folder.read_adata() is None


def test_the_log_of_a_run_stands_below_those_of_earlier_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of one that was interrupted: each begins with the time and the command."""
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["script.py"])
    with folder.run():
        pass
    monkeypatch.setattr("sys.argv", ["/bin/scalex-scvi", "integrate", "my cells.h5ad"])
    with pytest.raises(KeyboardInterrupt), folder.run():
        logging.getLogger("scalex_scvi").info("of the first")
        raise KeyboardInterrupt
    monkeypatch.setattr("sys.argv", ["script.py"])
    with folder.run():
        logging.getLogger("scalex_scvi").info("of the second")
    text = (folder.path / "log.txt").read_text()
    lines = [line.split(" - ", 2) for line in text.splitlines() if " - " in line]
    assert [line[2] for line in lines] == [
        "A run begins: called in Python",
        "A run begins: scalex-scvi integrate 'my cells.h5ad'",
        "of the first",
        "The run ended early.",
        "A run begins: called in Python",
        "of the second",
    ]
    assert all(datetime.fromisoformat(line[0].replace(",", ".")) for line in lines)
    assert "KeyboardInterrupt" in text


def test_a_first_run_that_fails_leaves_what_is_needed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "run")

    def fails(error: BaseException, name: str | None = None) -> set[str]:
        with pytest.raises(type(error)), folder.run():
            if name is not None:
                (folder.path / name).write_text("x")
            raise error
        return {path.name for path in tmp_path.rglob("*")} - {"a", "run"}

    assert fails(KeyboardInterrupt()) == set()
    assert not (tmp_path / "a").exists()
    assert fails(FileNotFoundError("no such file")) == set()
    assert fails(KeyboardInterrupt(), "training.ckpt") == {
        "training.ckpt",
        "log.txt",
        "scalex_run.json",
    }
    folder = RunFolder(tmp_path / "other")
    assert {"other", "log.txt"} <= fails(AssertionError("a mistake of ours"))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_log_that_is_a_link_becomes_a_file_of_its_own(tmp_path: Path, link: Any) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.run():
        pass
    log, kept = folder.path / "log.txt", tmp_path / "kept.txt"
    log.rename(kept)
    before = kept.read_text()
    link(kept, log)
    with folder.run():
        pass
    assert kept.read_text() == before
    assert log.read_text().startswith(before)
    assert log.read_text().count("A run begins") == 2

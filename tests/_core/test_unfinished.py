"""Files that arrive together, however the process ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scalex_scvi._core.unfinished import PREFIX, anyone_writes, current, recover, unfinished
from scalex_scvi.io import RunFolder

# Replaces a.txt and b/ by new ones, c.txt goes; killed before the n-th rename (and not at all).
PROGRAM = """
import os, sys
from pathlib import Path
from scalex_scvi._core.unfinished import arrive, unfinished

stop, count, rename = int(sys.argv[2]), 0, os.replace
def replace(*args):
    global count
    if count == stop:
        os.kill(os.getpid(), 9)
    count += 1
    rename(*args)
os.replace = replace
with unfinished(Path(sys.argv[1])) as place:
    (place / "new" / "a.txt").write_text("new")
    (place / "new" / "b").mkdir()
    (place / "new" / "b" / "model").write_text("new")
    arrive(place, leaving=["c.txt"])
"""


def old_folder(folder: Path) -> None:
    (folder / "b").mkdir()
    for name in ("a.txt", "b/model", "c.txt", "mine"):
        (folder / name).write_text("old")


def seen(folder: Path, *, by_us: bool) -> set[str | None]:
    """What a reader finds in a.txt and b/model; None: nothing."""
    found = set()
    for name in ("a.txt", "b"):
        path = current(folder / name) if by_us else folder / name
        path = path / "model" if name == "b" else path
        found.add(path.read_text() if path.exists() else None)
    return found


@pytest.mark.parametrize("stop", range(7))
def test_a_reader_sees_old_or_new_after_a_kill_at_each_rename(tmp_path: Path, stop: int) -> None:
    old_folder(tmp_path)
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), str(stop)])
    assert ended.returncode == (-9 if stop < 6 else 0)
    expected = "old" if stop == 0 else "new"
    assert seen(tmp_path, by_us=True) == {expected}
    assert seen(tmp_path, by_us=False) - {None} in ({"old"}, {"new"}, set())
    recover(tmp_path)
    assert seen(tmp_path, by_us=False) == {expected}
    assert (tmp_path / "c.txt").exists() == (expected == "old")
    assert (tmp_path / "mine").read_text() == "old"
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from scalex_scvi._core.unfinished import unfinished\n"
        "with unfinished(Path(sys.argv[1])): print('there', flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "there\n"
        (place,) = tmp_path.glob(f"{PREFIX}*")
        with unfinished(tmp_path):
            pass
        assert place.exists()
        assert anyone_writes(tmp_path)
        with pytest.raises(ValueError, match="another run is writing there"):
            RunFolder(tmp_path).check()
        other.kill()
    (tmp_path / f"{PREFIX}of_somebody").mkdir()
    (tmp_path / f"{PREFIX}of_somebody" / "file").write_text("mine")
    with RunFolder(tmp_path).run():
        pass
    assert [path.name for path in tmp_path.glob(f"{PREFIX}*")] == [f"{PREFIX}of_somebody"]


def test_what_cannot_be_moved_in_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_folder(tmp_path)
    rename = os.replace
    with pytest.raises(PermissionError), RunFolder(tmp_path / "run").run() as folder:
        (folder.path / "adata.h5ad").write_text("new")

        def refused(source: Path, target: Path) -> None:
            if Path(target).name == "adata.h5ad":
                raise PermissionError
            rename(source, target)

        monkeypatch.setattr(os, "replace", refused)
    monkeypatch.undo()
    assert RunFolder(tmp_path / "run").adata.read_text() == "new"
    recover(tmp_path / "run")
    assert (tmp_path / "run" / "adata.h5ad").read_text() == "new"


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
@pytest.mark.parametrize("number", [(), (errno.ENOSPC,)], ids=["in its text", "of its own"])
def test_a_full_disk_that_hdf5_finds_is_named(
    tmp_path: Path, kind: type[Exception], number: tuple[int, ...]
) -> None:
    text = "Can't close file (file write failed: errno = 28, error message = '…', offset = 4096)"
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        unfinished(tmp_path),
    ):
        raise kind(*number, text)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(kind, match="^another$"), unfinished(tmp_path):
        raise kind("another")

"""Little work is done by one thread, unless somebody asks for more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from threading import Event
from typing import Any

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from scipy import sparse
from scipy.io import mmwrite
from threadpoolctl import threadpool_info, threadpool_limits

import scalex_scvi as sx
from scalex_scvi._core import threads
from scalex_scvi._core.threads import one_thread
from scalex_scvi.tl._label_scores import best_labels

pytestmark = pytest.mark.usefixtures("three_threads")


def numbers_of_threads() -> set[int]:
    """Of torch, and of each library that has threads."""
    return {torch.get_num_threads()} | {library["num_threads"] for library in threadpool_info()}


def test_one_thread_and_as_before_afterwards() -> None:
    with one_thread():
        assert numbers_of_threads() == {1}
    assert numbers_of_threads() == {3}


def test_threads_are_as_before_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="here"), one_thread():
        raise RuntimeError("here")
    assert numbers_of_threads() == {3}


def test_a_block_within_another_leaves_that_its_one_thread() -> None:
    with one_thread():
        with one_thread():
            pass
        assert numbers_of_threads() == {1}
    assert numbers_of_threads() == {3}


def test_two_at_once_leave_the_threads_as_they_were() -> None:
    """As in a service with a thread for each query: the first ends before the second."""
    mmwrite(BytesIO(), sparse.eye(2))  # loads threads of which the whole process has one number
    with threadpool_limits(3):
        check_two_at_once()


def check_two_at_once() -> None:
    first_is_in, second_is_in, first_is_out = Event(), Event(), Event()

    def first() -> None:
        with one_thread():
            first_is_in.set()
            assert second_is_in.wait(60)

    def second() -> int:
        assert first_is_in.wait(60)
        with one_thread():
            second_is_in.set()
            assert first_is_out.wait(60)
            assert torch.get_num_threads() == 1
        return torch.get_num_threads()

    with ThreadPoolExecutor(2) as pool:
        ended, other = pool.submit(first), pool.submit(second)
        ended.result()
        first_is_out.set()
        assert other.result() == 3
    assert numbers_of_threads() == {3}
    with ThreadPoolExecutor(1) as pool:  # a thread that comes later
        assert pool.submit(torch.get_num_threads).result() == 3


def test_nothing_changes_where_it_is_not_wanted() -> None:
    with one_thread(False):
        assert numbers_of_threads() == {3}


@pytest.mark.parametrize("name", threads.SETTINGS)
def test_who_sets_a_number_of_threads_gets_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "3")
    with one_thread():
        assert numbers_of_threads() == {3}


def test_who_sets_those_of_scvi_gets_them() -> None:
    scvi.settings.num_threads = 3
    with one_thread():
        assert numbers_of_threads() == {3}


def labeled(seed: int) -> AnnData:
    """Two groups of cells in a latent space of two dimensions."""
    drawn = np.random.default_rng(seed)
    codes = np.arange(60) % 2
    latent = drawn.normal(size=(60, 2)) + 8 * codes[:, None]
    return AnnData(
        latent.astype(np.float32), obs={"celltype": np.array(["a", "b"])[codes]}, obsm={"Z": latent}
    )


@pytest.mark.parametrize(("most", "expected"), [(120, 1), (119, 3)])
def test_few_cells_are_labeled_by_one_thread(
    most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: set[int] = set()

    def seen(*args: Any) -> Any:
        found.update(numbers_of_threads())
        return best_labels(*args)

    monkeypatch.setattr("scalex_scvi.tl._label_transfer.best_labels", seen)
    monkeypatch.setattr(threads, "MOST_CELLS_OF_ONE", most)
    ref, query = labeled(0), labeled(1)
    assert (sx.tl.label_transfer(ref, query, "Z", "celltype") == query.obs["celltype"]).all()
    assert found == {expected}
    assert numbers_of_threads() == {3}

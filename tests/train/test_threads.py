"""On the CPU one thread trains small minibatches, unless somebody asks for more."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from conftest import QUIET, simulate_counts
from lightning.pytorch import Callback

import scalex_scvi as sx
from scalex_scvi._core import threads

pytestmark = pytest.mark.usefixtures("three_threads")


class Threads(Callback):
    """How many threads there are in each minibatch."""

    def __init__(self) -> None:
        self.found: set[int] = set()

    def on_train_batch_start(self, *_: object) -> None:
        self.found.add(torch.get_num_threads())


@pytest.fixture(scope="module")
def counts() -> AnnData:
    return simulate_counts()


def threads_of_training(adata: AnnData) -> set[int]:
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    seen = Threads()
    sx.SCALEXModel(adata).train(max_steps=2, callbacks=[seen], **QUIET)
    assert torch.get_num_threads() == 3
    return seen.found


def test_one_thread_trains(counts: AnnData) -> None:
    assert threads_of_training(counts) == {1}


def test_a_failed_training_leaves_the_threads_as_they_were(counts: AnnData) -> None:
    class Fails(Callback):
        def on_train_batch_start(self, *_: object) -> None:
            raise RuntimeError("here")

    sx.SCALEXModel.setup_anndata(counts, batch_key="batch")
    with pytest.raises(RuntimeError, match="here"):
        sx.SCALEXModel(counts).train(max_steps=2, callbacks=[Fails()], **QUIET)
    assert torch.get_num_threads() == 3


def test_who_asks_for_threads_gets_them(counts: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "3")
        assert threads_of_training(counts) == {3}
    monkeypatch.setattr(scvi.settings, "_num_threads", None)  # is put back after the test
    scvi.settings.num_threads = 3
    assert threads_of_training(counts) == {3}


def test_wide_minibatches_have_all_threads(
    counts: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MOST_VALUES_OF_ONE", 128 * counts.n_vars - 1)
    assert threads_of_training(counts) == {3}


def test_the_number_of_cores_changes_nothing(counts: AnnData) -> None:
    latents = []
    for n_cores in (1, 3):
        torch.set_num_threads(n_cores)
        sx.SCALEXModel.setup_anndata(counts, batch_key="batch")
        model = sx.SCALEXModel(counts, seed=0)
        model.train(max_steps=20, seed=0, **QUIET)
        torch.set_num_threads(1)
        latents.append(model.get_latent_representation())
    np.testing.assert_array_equal(*latents)

"""The full job on the real data sets: it mixes batches, keeps types, projects.

``benchmarks/quality`` and ``benchmarks/left_out`` have the figures, with every batch left out in
turn.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import QUIET, real_data, share_between_batches
from sklearn.metrics import accuracy_score, f1_score

import scalex_scvi as sx

pytestmark = pytest.mark.real_data


# By the defaults on one set, of which there are fewer genes; the others with a smaller network and
# shortly: over 1 000 minibatches of 64 instead of up to 2 900 of 128, which is enough for what is
# asserted, over 500 of one batch alone, over 100 where there are few cells or types (of which two
# minibatches would do), and over 1 600 where there are many batches. Where two batches or more are
# left when one is not trained on, the model that mixes them also places the batch left out.
SHORT = {"max_steps": 1000, "batch_size": 64}
SHORTER = SHORT | {"max_steps": 500}
SHORTEST = SHORT | {"max_steps": 100}
TRAINED: dict[tuple[str, str | None], dict[str, float]] = {
    ("kang_pbmc_published_labels", None): SHORT,
    ("kang_pbmc_published_labels", "ctrl"): SHORTER,
    ("mesc_2batch_scmerge", None): SHORTEST,
    ("mesc_2batch_scmerge", "batch3"): SHORTEST,
    ("celllines_3cl_3platforms_832genes", "CELseq2_3cl"): SHORTEST,
    ("kang_pbmc_ctrl_8donors", "donor1039"): SHORT | {"max_steps": 1600},
}
N_GENES = {
    "mesc_2batch_scmerge": 1000,  # of 300 cells
    "pancreas_3study_cepo": 600,
    "kang_pbmc_ctrl_8donors": 700,
}
HALF_OF_THE_CELLS = ("kang_pbmc_ctrl_8donors",)  # which are 12 261
N_HIDDEN = {"kang_pbmc_ctrl_8donors": 128}
SMALLER_NETWORK = 256


def some_real_data(name: str) -> AnnData:
    adata = real_data(name)
    return adata[::2].copy() if name in HALF_OF_THE_CELLS else adata


@cache
def trained(name: str, left_out: str | None) -> sx.SCALEXModel:
    """A model of all cells, or of those of all batches but one; trained once."""
    counts = some_real_data(name)
    counts = counts[(counts.obs["batch"] != left_out).to_numpy()].copy()
    # The sets are filtered by their sources.
    n_genes = {"n_top_features": N_GENES[name]} if name in N_GENES else {}
    adata = sx.pp.rna(counts, batch_key="batch", min_features=0, **n_genes)
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch", labels_key="celltype")
    shortly = TRAINED.get((name, left_out))
    smaller = {"n_hidden": N_HIDDEN.get(name, SMALLER_NETWORK)}
    model = sx.SCALEXModel(adata, **(smaller if shortly else {}))
    model.train(**(QUIET | (shortly or {})))
    return model


# Set, and the batch that the model is trained without.
MIXED = [
    ("kang_pbmc_published_labels", None),
    ("pancreas_3study_cepo", "Lawlor"),
    ("mesc_2batch_scmerge", None),
    ("celllines_3cl_3platforms_832genes", "CELseq2_3cl"),
    ("kang_pbmc_ctrl_8donors", "donor1039"),
]
LEAST_WAY = 0.40


@pytest.mark.parametrize(("name", "left_out"), MIXED, ids=[r[0] for r in MIXED])
def test_mixes_batches_and_keeps_cell_types(name: str, left_out: str | None) -> None:
    model = trained(name, left_out)
    batch, label = (model.adata.obs[key] for key in ("batch", "celltype"))
    uncorrected = sx.metrics.uncorrected_pca(model.adata)
    apart = sx.metrics.same_batch_share(uncorrected, batch)
    mixed = sx.metrics.expected_same_batch_share(batch)
    latents = [model.get_latent_representation(batch_stats=s) for s in ("running", "batch")]
    shares = [sx.metrics.same_batch_share(latent, batch) for latent in latents]
    better = latents[int(np.argmin(shares))]
    purity = sx.metrics.knn_purity(uncorrected, label)
    assert (apart - min(shares)) / (apart - mixed) >= LEAST_WAY
    assert sx.metrics.knn_purity(better, label) >= purity - 0.05


# Guards against getting worse, set some 0.03 to 0.1 below what was measured. A training differs by
# seed and by the number of threads: by neighbors stim got 0.655 to 0.863 in five of them, and is
# guarded by the default only.
# Set, batch that is left out, least accuracy and macro-F1 of the labels that it gets.
BY_NEIGHBORS = [
    ("pancreas_3study_cepo", "Lawlor", 0.94, 0.90),
    ("mesc_2batch_scmerge", "batch3", 0.80, 0.80),
    ("celllines_3cl_3platforms_832genes", "CELseq2_3cl", 0.97, 0.97),
    ("kang_pbmc_ctrl_8donors", "donor1039", 0.84, 0.63),
]
BY_CONSENSUS = [
    ("kang_pbmc_published_labels", "ctrl", 0.80, 0.80),
    ("pancreas_3study_cepo", "Lawlor", 0.94, 0.94),
    ("mesc_2batch_scmerge", "batch3", 0.85, 0.85),
    ("celllines_3cl_3platforms_832genes", "CELseq2_3cl", 0.97, 0.97),
    ("kang_pbmc_ctrl_8donors", "donor1039", 0.87, 0.78),
]


@cache
def projected(name: str, left_out: str) -> tuple[AnnData, AnnData, pd.Series]:
    """Reference and query with both latents, and the query's own labels."""
    model, counts = trained(name, left_out), some_real_data(name)
    query = counts[(counts.obs["batch"] == left_out).to_numpy()].copy()
    truth = query.obs.pop("celltype").astype(str)
    placed = sx.SCALEXModel.load_query_data(query, model)
    prepared = []
    for of in (model, placed):
        cells = model.adata if of is model else of.get_prepared()
        cells.obsm["latent"] = of.get_latent_representation()
        prepared.append(cells)
    return *prepared, truth


def assert_right(labels: pd.Series, truth: pd.Series, accuracy: float, macro_f1: float) -> None:
    labels = labels.astype(str)
    assert accuracy_score(truth, labels) >= accuracy
    known = truth.unique()
    assert f1_score(truth, labels, average="macro", labels=known, zero_division=0) >= macro_f1


def test_donors_differ_less_in_the_mean_of_their_latents_than_in_that_of_their_genes() -> None:
    """A third; without the alignment of the batches' means it is 0.58."""
    ref, _, _ = projected("kang_pbmc_ctrl_8donors", "donor1039")
    genes = share_between_batches(sx.metrics.uncorrected_pca(ref), ref.obs["batch"])
    assert share_between_batches(ref.obsm["latent"], ref.obs["batch"]) <= 0.4 * genes


@pytest.mark.parametrize(
    ("name", "left_out", "accuracy", "macro_f1"), BY_NEIGHBORS, ids=[r[0] for r in BY_NEIGHBORS]
)
def test_projects_a_batch_it_has_never_seen(
    name: str, left_out: str, accuracy: float, macro_f1: float
) -> None:
    ref, query, truth = projected(name, left_out)
    labels = sx.label_transfer(ref, query, method="neighbors")
    assert_right(labels, truth, accuracy, macro_f1)


@pytest.mark.parametrize(
    ("name", "left_out", "accuracy", "macro_f1"), BY_CONSENSUS, ids=[r[0] for r in BY_CONSENSUS]
)
def test_labels_of_a_batch_that_the_model_has_never_seen(
    name: str, left_out: str, accuracy: float, macro_f1: float
) -> None:
    ref, query, truth = projected(name, left_out)
    is_known = truth.isin(ref.obs["celltype"].unique())
    assert is_known.all() == (left_out != "ctrl")  # which has three types that stim lacks
    labels = sx.label_transfer(ref, query)
    assert_right(labels[is_known], truth[is_known], accuracy, macro_f1)


def test_negative_control_of_real_cells() -> None:
    """NK, DC and Mk exist only in ctrl: project it on stim.

    Guards against getting worse, not goals: 0.61 of the unseen cells are found and 0.07 of the
    others refused (docs/label_transfer.md).
    """
    ref, query, truth = projected("kang_pbmc_published_labels", "ctrl")
    labels = sx.label_transfer(ref, query, unknown=True).astype(str)
    unseen = truth.isin(["NK", "DC", "Mk"])
    assert (labels[unseen] == "unknown").mean() >= 0.35
    assert (labels[~unseen] == "unknown").mean() <= 0.08
    accepted = labels != "unknown"
    plain = sx.label_transfer(ref, query).astype(str)
    assert (labels == truth)[accepted].mean() >= (plain == truth).mean() + 0.02


def test_a_type_that_the_reference_lacks_is_unknown_with_no_others_beside_it() -> None:
    """Cells of one type of a donor: the others have it, or it is taken out of them."""
    donors, *_ = projected("kang_pbmc_ctrl_8donors", "donor1039")
    is_query = (donors.obs["batch"] == "donor1256").to_numpy()
    is_type = (donors.obs["celltype"] == "B").to_numpy()
    sorted_cells = donors[is_query & is_type]
    known = sx.tl.label_scores(donors[~is_query], sorted_cells, batch_key="batch")
    without = donors[~is_query & ~is_type]
    unseen = sx.tl.label_scores(without, sorted_cells, batch_key="batch")
    assert unseen.is_unknown.mean() > 0.8
    assert known.is_unknown.mean() < 0.1


def test_technologies_that_differ_as_much_as_types_do_hide_no_type() -> None:
    """Alpha cells of another technology: the reference has them, or its nearest are beta cells."""
    ref, query, truth = projected("embedded/pancreas_5tech", "smartseq2")
    sorted_cells = query[(truth == "alpha").to_numpy()]
    without = ref[(ref.obs["celltype"] != "alpha").to_numpy()]
    known = sx.tl.label_scores(ref, sorted_cells, batch_key="batch")
    unseen = sx.tl.label_scores(without, sorted_cells, batch_key="batch")
    assert unseen.is_unknown.mean() > 0.8
    assert known.is_unknown.mean() < 0.1


def test_a_type_that_one_batch_lacks_is_unknown_with_no_others_beside_it() -> None:
    """Dendritic cells are in ctrl only, B cells in stim, too: each alone on a reference of stim."""
    stim, ctrl, truth = projected("kang_pbmc_published_labels", "ctrl")
    dendritic, b_cells = (
        sx.tl.label_scores(stim, ctrl[(truth == name).to_numpy()]) for name in ("DC", "B")
    )
    assert dendritic.is_unknown.mean() > 0.8
    assert b_cells.is_unknown.mean() < 0.3


def test_processed_input_is_recognized() -> None:
    for name in ("pancreas_wang_xin_scclassify", "a549_scicar_atac_peaks"):
        with pytest.raises(ValueError, match="does not look like counts"):
            sx.pp.rna(real_data(name), min_features=0)
    adata = sx.pp.rna(
        real_data("pancreas_wang_xin_scclassify"),
        batch_key="batch",
        min_features=0,
        log_normalized=True,
    )
    assert adata.X.max() == 1


def test_counts_of_every_real_set_pass() -> None:
    for name in ("pbmc_cite_5k_10k_scvi_testdata", "rnamix_celseq2_sortseq", "a549_scicar_rna"):
        adata = sx.pp.rna(real_data(name), batch_key="batch", min_features=0)
        assert adata.n_vars <= 2000
        assert adata.X.min() >= 0
        assert adata.X.max() == 1

"""Label transfer on real sets: accuracy, and how often "unknown" is right or wrong.

Usage: ``python -m benchmarks.label_transfer --data FOLDER`` (see ``--help``). ``--scanvi`` adds
scANVI, which takes minutes per reference on a CPU.

In each case one batch is left out, the reference is trained on the others, and the batch is
projected without training. In some cases a cell type is taken out of the reference too; in
kang_pbmc_published_labels, ctrl has three types that stim lacks, so nothing need be taken out.

Every method refuses cells by a conformal p-value of 0.05, from held-out cells of the reference:
batch by batch where it has several, else folds of its only batch. Ours by its own misfit, the peers
by 1 − their largest probability. PCA (50 components of the same genes, log-normalised and
standardised by the reference) is fitted on the whole reference, as our latent is. scANVI would
have to be trained once per fold; its held-out cells are the tenth of the reference that it keeps
for validation.

Columns: ``accuracy`` and ``macro_f1`` without refusal, of cells whose type the reference has;
``refused``: share of those called unknown; ``found``: share of the others called unknown;
``auroc``: how well uncertainty ranks the others above those; ``accepted``: accuracy of all cells
that got a label, where a new type can only be wrong.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

import scalex_scvi as sx
from benchmarks.real_sets import BATCH, LABEL, add_recipe, recipe, train_reference

MAX_REFUSED = 0.05
SCANVI_SETS = ("kang_pbmc_published_labels", "mesc_2batch_scmerge", "pancreas_3study_cepo")
# Set: batches to leave out, and batches for which each cell type in turn is taken out too.
SETS: dict[str, tuple[list[str], list[str]]] = {
    "kang_pbmc_published_labels": (["ctrl", "stim"], []),
    "mesc_2batch_scmerge": (["batch2", "batch3"], ["batch2", "batch3"]),
    "pancreas_3study_cepo": (
        ["Baron", "Lawlor", "Segerstolpe"],
        ["Baron", "Lawlor", "Segerstolpe"],
    ),
    "celllines_3cl_3platforms_832genes": (
        ["10x_3cl", "CELseq2_3cl", "Dropseq_3cl"],
        ["CELseq2_3cl"],
    ),
    "kang_pbmc_ctrl_8donors": (["donor1015"], ["donor1015"]),
}


class Case(NamedTuple):
    """A batch to leave out, and a type that the reference is to lack."""

    name: str
    batch: str
    removed: str | None

    @property
    def stem(self) -> str:
        """Name of the case's file in the cache."""
        return f"{self.name}__{self.batch}__{self.removed}"


class Pair(NamedTuple):
    """Reference and query: ``obsm`` has ``running``, ``batch`` (statistics) and ``pca``."""

    ref: ad.AnnData
    query: ad.AnnData


class Answer(NamedTuple):
    """Best label of the reference and p-value of each query cell."""

    labels: np.ndarray
    p: np.ndarray


def cases(names: list[str], data: Path) -> Iterator[Case]:
    for name in names:
        batches, with_removal = SETS[name]
        yield from (Case(name, batch, None) for batch in batches)
        types = sorted(ad.read_h5ad(data / f"{name}.h5ad").obs[LABEL].astype(str).unique())
        yield from (Case(name, batch, removed) for batch in with_removal for removed in types)


def split(case: Case, data: Path) -> tuple[ad.AnnData, ad.AnnData]:
    counts = ad.read_h5ad(data / f"{case.name}.h5ad")
    counts.obs[LABEL] = counts.obs[LABEL].astype(str)
    is_query = (counts.obs[BATCH] == case.batch).to_numpy()
    is_removed = (counts.obs[LABEL] == case.removed).to_numpy()
    return counts[~is_query & ~is_removed].copy(), counts[is_query].copy()


def embed(case: Case, args: argparse.Namespace) -> Pair:
    """Prepare both, with latents and components from the cache or computed."""
    ref_counts, query_counts = split(case, args.data)
    path = args.cache / f"{case.stem}.npz"
    if not path.exists():
        np.savez(path, **_representations(ref_counts, query_counts, recipe(args)))
    ref = sx.pp.rna(ref_counts, batch_key=BATCH, min_features=0)
    record = sx.pp.Preprocessing.from_adata(ref)
    query = sx.pp.prepare_query(query_counts, record, batch_key=BATCH)[:, ref.var_names].copy()
    with np.load(path) as found:
        for rep in ("running", "batch", "pca"):
            ref.obsm[rep], query.obsm[rep] = found[f"ref_z_{rep}"], found[f"query_z_{rep}"]
    return Pair(ref, query)


def _representations(
    ref_counts: ad.AnnData, query_counts: ad.AnnData, training: sx.train.Recipe
) -> dict[str, np.ndarray]:
    model = train_reference(ref_counts, training)
    query = sx.SCALEXModel.load_query_data(query_counts, model)
    found = {}
    for stats in ("running", "batch"):
        found[f"ref_z_{stats}"] = model.get_latent_representation(batch_stats=stats)
        found[f"query_z_{stats}"] = query.get_latent_representation(batch_stats=stats)
    genes = model.adata.var_names
    ref, new = _log_normalized(ref_counts, genes), _log_normalized(query_counts, genes)
    mean, sd = ref.mean(axis=0), ref.std(axis=0)
    sd[sd == 0] = 1
    ref, new = (np.clip((x - mean) / sd, -10, 10) for x in (ref, new))
    pca = PCA(50, random_state=0).fit(ref)
    return found | {"ref_z_pca": pca.transform(ref), "query_z_pca": pca.transform(new)}


def _log_normalized(counts: ad.AnnData, genes: pd.Index) -> np.ndarray:
    kept = counts[:, ~counts.var_names.str.startswith(("ERCC", "MT-", "mt-"))].copy()
    sc.pp.normalize_total(kept, target_sum=1e4)
    sc.pp.log1p(kept)
    x = kept[:, genes].X
    return np.asarray(x.todense() if hasattr(x, "todense") else x)


def ours(pair: Pair, rep: str, **how: str) -> Answer:
    scores = sx.tl.label_scores(*pair, rep, LABEL, max_refused=MAX_REFUSED, batch_key=BATCH, **how)
    return Answer(scores.labels.to_numpy(str), scores.p_values.to_numpy())


def peer_on_pcs(pair: Pair, classifier: ClassifierMixin) -> Answer:
    points, labels = pair.ref.obsm["pca"], pair.ref.obs[LABEL].to_numpy(str)
    batch = pair.ref.obs[BATCH].to_numpy(str)
    several = len(np.unique(batch)) > 1
    folds = LeaveOneGroupOut() if several else StratifiedKFold(5, shuffle=True, random_state=0)
    held_out = cross_val_predict(
        classifier, points, labels, groups=batch, cv=folds, method="predict_proba"
    ).max(axis=1)
    if several:  # as in label_transfer: types of one batch are new to the others
        held_out = held_out[pd.Series(batch).groupby(labels).transform("nunique") > 1]
    proba = classifier.fit(points, labels).predict_proba(pair.query.obsm["pca"])
    return Answer(classifier.classes_[proba.argmax(axis=1)], conformal(proba.max(axis=1), held_out))


def conformal(confidence: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    # Rounded: 0.6 is 0.6 however it was summed.
    confidence, held_out = np.round(confidence, 9), np.sort(np.round(held_out, 9))
    n_as_unsure = np.searchsorted(held_out, confidence, side="right")
    return (1 + n_as_unsure) / (1 + len(held_out))


def scanvi(case: Case, pair: Pair, data: Path, cache: Path) -> Answer:
    path = cache / f"{case.stem}__scanvi.npz"
    if not path.exists():
        genes = pair.ref.var_names
        np.savez(path, **_run_scanvi(*(counts[:, genes].copy() for counts in split(case, data))))
    with np.load(path) as found:
        p = conformal(found["proba"].max(axis=1), found["held_out"].max(axis=1))
        return Answer(found["classes"][found["proba"].argmax(axis=1)], p)


def _run_scanvi(ref: ad.AnnData, query: ad.AnnData) -> dict[str, np.ndarray]:
    """Map as in scvi-tools' tutorial: its architecture, epochs and arguments."""
    import scvi

    scvi.settings.seed = 124
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    scvi.model.SCVI.setup_anndata(ref, batch_key=BATCH, labels_key=LABEL)
    unsupervised = scvi.model.SCVI(
        ref,
        use_layer_norm="both",
        use_batch_norm="none",
        encode_covariates=True,
        dropout_rate=0.2,
        n_layers=2,
    )
    unsupervised.train(**quiet)
    model = scvi.model.SCANVI.from_scvi_model(unsupervised, unlabeled_category="Unknown")
    model.train(max_epochs=20, n_samples_per_label=100, **quiet)
    held_out = model.predict(soft=True, indices=model.validation_indices)
    query = query.copy()
    query.obs[LABEL] = "Unknown"
    mapped = scvi.model.SCANVI.load_query_data(query, model)
    mapped.train(
        max_epochs=100,
        plan_kwargs={"weight_decay": 0.0},
        check_val_every_n_epoch=10,
        **quiet,
    )
    proba = mapped.predict(soft=True)
    classes = proba.columns.to_numpy(str)
    return {"proba": proba.to_numpy(), "held_out": held_out.to_numpy(), "classes": classes}


def row(pair: Pair, answer: Answer) -> dict[str, float]:
    truth = pair.query.obs[LABEL].to_numpy(str)
    known = np.isin(truth, pair.ref.obs[LABEL].to_numpy(str))
    unknown = answer.p <= MAX_REFUSED
    right = answer.labels == truth
    new = (~known).any()
    return {
        "new_cells": int((~known).sum()),
        "accuracy": accuracy_score(truth[known], answer.labels[known]),
        "macro_f1": f1_score(
            truth[known],
            answer.labels[known],
            average="macro",
            labels=np.unique(truth[known]),
            zero_division=0,
        ),
        "refused": unknown[known].mean(),
        "found": unknown[~known].mean() if new else np.nan,
        "auroc": roc_auc_score(~known, -answer.p) if new else np.nan,
        "accepted": right[~unknown].mean() if (~unknown).any() else np.nan,
        "accepted_all": right.mean(),
    }


def answers(case: Case, pair: Pair, args: argparse.Namespace) -> Iterator[tuple[str, Answer]]:
    yield "ours", ours(pair, "running")
    yield "ours, batch statistics", ours(pair, "batch")
    yield "ours, method='neighbors'", ours(pair, "running", method="neighbors")
    yield "ours, novelty='latent'", ours(pair, "running", novelty="latent")
    yield "logistic regression on PCs", peer_on_pcs(pair, LogisticRegression(max_iter=2000))
    yield "5-NN on PCs", peer_on_pcs(pair, KNeighborsClassifier(5))
    if args.scanvi and case.name in SCANVI_SETS and case.removed is None:
        yield "scANVI", scanvi(case, pair, args.data, args.cache)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over the cases of a set, whole references and references that lack a type apart."""
    table = table.assign(reference=np.where(table["removed"] == "", "whole", "lacks a type"))
    columns = ["accuracy", "macro_f1", "refused", "found", "auroc", "accepted", "accepted_all"]
    return table.groupby(["set", "reference", "method"], sort=False)[columns].mean().reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--scanvi", action="store_true", help="also run scANVI (slow)")
    add_recipe(parser, "default")
    parser.add_argument("--cache", type=Path, help="to keep latents of one recipe between runs")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the tables")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    pd.set_option("display.width", 200, "display.max_columns", 30, "display.precision", 3)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        args.cache = args.cache or Path(temporary)
        args.cache.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, object]] = []
        for case in cases(args.sets, args.data):
            pair = embed(case, args)
            about = {"set": case.name, "left_out": case.batch, "removed": case.removed or ""}
            for method, answer in answers(case, pair, args):
                rows.append(about | {"method": method} | row(pair, answer))
            table = pd.DataFrame(rows)
            table.to_csv(args.out / "label_transfer.csv", index=False)
            print(f"{case.stem}: done", flush=True)
    print(summarise(table).to_string(index=False))


if __name__ == "__main__":
    main()

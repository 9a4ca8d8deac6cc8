"""The commands: each calls a function of the package with the options that were typed."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from scalex_scvi import SCALEXModel, metrics, pl, references, workflow
from scalex_scvi._core.files import SUFFIXES, whole_file
from scalex_scvi._core.keys import IMPUTED_KEY
from scalex_scvi._core.measured import query_cells
from scalex_scvi._core.options import options_in
from scalex_scvi._demo import demo
from scalex_scvi._mapping import map_onto
from scalex_scvi._outputs import Outputs
from scalex_scvi.io import Reading, RunFolder, batch_column, paths_of, read
from scalex_scvi.pp import Preparation
from scalex_scvi.tl import label_scores
from scalex_scvi.train import Recipe

from ._checks import check_result
from ._reference import save_reference

logger = logging.getLogger(__name__)


def run_scalex(args: argparse.Namespace) -> None:
    """Run ``SCALEX.py`` and ``integrate``: integrate, or project if a reference is given.

    Raises
    ------
    ValueError
        If both ``--projection`` and ``--checkpoint`` are given.
    """
    projection = getattr(args, "projection", None)
    checkpoint = getattr(args, "checkpoint", None)
    if projection is not None and checkpoint is not None:
        msg = f"Give --projection ({projection!r}) or --checkpoint ({checkpoint!r}), not both."
        raise ValueError(msg)
    if checkpoint is not None:  # the model is applied to the data, nothing is added
        _project_onto(checkpoint, args, repeat=True)
    elif projection is not None:
        _project_onto(projection, args)
    else:
        workflow.integrate(args.data, **_job(args))


def _project(args: argparse.Namespace) -> None:
    _project_onto(args.reference, args)


def _project_onto(reference: str, args: argparse.Namespace, **more: bool) -> None:
    workflow.project(
        args.data,
        reference,
        reading=options_in(Reading, vars(args)),
        preparation=options_in(Preparation, vars(args)),
        outputs=_outputs(args, **more),
        seed=args.seed,
    )


def _map(args: argparse.Namespace) -> None:
    reference = references.load(args.reference, sha256=args.sha256, update=args.update)
    map_onto(
        args.data,
        reference,
        reading=options_in(Reading, vars(args)),
        outputs=Outputs(outdir=args.outdir, show=False),
        labels=args.labels,
        max_refused=args.max_refused,
        report=args.report,
        seed=args.seed,
    )


def _job(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of :func:`scalex_scvi.workflow.integrate` besides the data."""
    return {
        "reading": options_in(Reading, vars(args)),
        "preparation": options_in(Preparation, vars(args)),
        "recipe": options_in(Recipe, vars(args)),
        "outputs": _outputs(args),
        "seed": args.seed,
        "train_kwargs": _machine(args),
    }


def _outputs(args: argparse.Namespace, **more: Any) -> Outputs:
    if getattr(args, "eval", False):
        more["batch_stats"] = "running"
    return options_in(Outputs, vars(args), show=False, **more)


def _machine(args: argparse.Namespace) -> dict[str, Any]:
    # Lightning's bar goes to stdout: in a file it would be one line of hundreds of kilobytes.
    shown = not args.quiet and sys.stdout.isatty()
    return workflow.on_gpu(args.gpu) | {"enable_progress_bar": shown}


def _transfer(args: argparse.Namespace) -> None:
    args.out = check_result(args.out, paths_of([args.reference, args.query]), [".csv"], "cell")
    ref = _read_results(args.reference)
    if args.query is not None:
        query = _read_results(args.query)
        if "projection" in query.obs:
            query = query_cells(query, (query.obs["projection"] == "query").to_numpy())
    elif "projection" in ref.obs:
        is_query = (ref.obs["projection"] == "query").to_numpy()
        ref, query = ref[~is_query], query_cells(ref, is_query)
    else:
        msg = f"{args.reference!r} holds no projection: name the query, too."
        raise ValueError(msg)
    scores = label_scores(
        ref,
        query,
        args.use_rep,
        args.label,
        batch_key=batch_column(ref) if batch_column(ref) in ref.obs else None,
        method=args.method,
        n_neighbors=args.n_neighbors,
        max_refused=args.max_refused,
        novelty=args.novelty,
    )
    table = scores.to_frame()
    if args.unknown:
        table[f"{args.label}_transfer"] = scores.labels_or_unknown()
    _write_table(table, args.out, index_label="cell")


def _impute(args: argparse.Namespace) -> None:
    folder = RunFolder(args.run)
    args.out = check_result(args.out, paths_of(args.run), SUFFIXES, IMPUTED_KEY)
    adata = _read_results(args.run)
    model = SCALEXModel.load(folder.checkpoint, adata=False)
    model.impute(
        adata,
        transform_batch=args.batch,
        units=args.units,
        threshold=args.threshold,
        chunk_size=args.chunk_size,
        path=args.out,
    )
    logger.info("Wrote %s.", args.out)


def _plot(args: argparse.Namespace) -> None:
    args.out = check_result(args.out, paths_of(args.run), [".png", ".pdf", ".svg"])
    adata = _read_results(args.run)
    color, rep, groupby = args.color[0], args.use_rep, args.groupby or batch_column(adata)
    options = {"save": args.out, "show": False}
    if args.kind == "umap":
        pl.umap(adata, args.color, **options)
    elif args.kind == "projection":
        pl.projection(adata, args.color, **options)
    elif args.kind == "embedding":
        pl.embedding(adata, color, groupby=groupby, groups=args.groups, **options)
    elif args.kind == "meta":
        pl.meta(adata, use_rep=rep, color=color, batch=groupby, **options)
    elif args.kind == "meta-pair":
        pl.meta_pair(
            adata, args.use_rep, color=color, batch=groupby, batches=args.groups, **options
        )
    else:
        predicted = args.predicted or f"{color}_transfer"
        _plot_confusion(adata, color, predicted, options, as_json=args.json)
    logger.info("Wrote %s.", args.out)


def _plot_confusion(
    adata: AnnData, truth: str, predicted: str, options: dict[str, Any], *, as_json: bool
) -> None:
    for column in (truth, predicted):
        if column not in adata.obs:
            msg = (
                f"{column!r} is not a column of obs: {list(adata.obs.columns)!r}. Labels are "
                "transferred by `scalex-scvi project --label` and `map`."
            )
            raise KeyError(msg)
    both = adata.obs[[truth, predicted]].dropna()
    if both.empty:
        msg = (
            f"No cell has both a label in {truth!r} and one in {predicted!r}: a confusion is for "
            "queries whose types are known. Name their column by --color."
        )
        raise ValueError(msg)
    f1, nmi, ari = pl.confusion(both[truth].astype(str), both[predicted].astype(str), **options)
    if as_json:
        found = {"cells": len(both), "F1": float(f1), "NMI": float(nmi), "ARI": float(ari)}
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    sys.stdout.write(f"cells {len(both)}  F1 {f1:.3f}  NMI {nmi:.3f}  ARI {ari:.3f}\n")


def _assess(args: argparse.Namespace) -> None:
    if args.out is not None:
        args.out = check_result(args.out, paths_of(args.run), [".csv"], "representation")
    adata = _read_results(args.run)
    batch_key = args.batch_name or batch_column(adata)
    if args.benchmark:
        scores = metrics.benchmark(adata, args.use_rep, batch_key=batch_key, labels_key=args.label)
    else:
        keys = {"batch_key": batch_key, "labels_key": args.label, "seed": args.seed}
        found = {rep: metrics.integration_scores(adata, rep, **keys) for rep in args.use_rep}
        scores = pd.DataFrame(found).T
    shown = scores.round(3).to_string()
    sys.stdout.write((scores.to_json(orient="index", indent=1) if args.json else shown) + "\n")
    if args.out is not None:
        _write_table(scores, args.out, index_label="representation")


def _demo(args: argparse.Namespace) -> None:
    scores = demo(args.data, held_out=args.held_out, left_out=args.left_out, **_job(args))
    if args.json:
        sys.stdout.write(scores.to_json(orient="records", indent=1) + "\n")
        return
    lines = [f"{row.score:36s} {row.value:5.2f}   {row.meaning}" for row in scores.itertuples()]
    what = "Data: " + (args.data or "500 real pancreas cells of five technologies.")
    where = [
        f"Results are in {args.outdir}/:",
        "  projection/report.html  start here: which cells are new, and all the rest",
        "  projection/             projected batch beside the reference: adata.h5ad, umap.png",
        "  reference/              integrated batches: the same, and checkpoint/",
        "  scores.csv              the table above",
    ]
    sys.stdout.write("\n".join(["", what, *lines, "", *where, ""]))


def _read_results(place: str) -> AnnData:
    """Read the results of a run folder, or a file: cells × genes."""
    if not paths_of(place):
        msg = (
            f"There is no {place!r}. Name a folder that `integrate`, `project` or `map` wrote, or "
            "its adata.h5ad."
        )
        raise FileNotFoundError(msg)
    if not Path(place).is_dir():
        return read(place)
    adata = RunFolder(place).read_adata()
    if adata is None:
        msg = f"There is no {str(RunFolder(place).adata)!r}: is {place!r} a run folder?"
        raise FileNotFoundError(msg)
    return adata


def _write_table(table: pd.DataFrame, path: str, *, index_label: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        table.to_csv(temporary, index_label=index_label)
    logger.info("Wrote %s.", path)


COMMANDS: dict[str | None, Callable[[argparse.Namespace], None]] = {
    "integrate": run_scalex,
    "project": _project,
    "map": _map,
    "transfer": _transfer,
    "impute": _impute,
    "plot": _plot,
    "assess": _assess,
    "reference": save_reference,
    "demo": _demo,
}

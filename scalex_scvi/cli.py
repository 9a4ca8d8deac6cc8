"""Command line: a thin layer over :mod:`scalex_scvi.workflow`."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from . import __version__, workflow

logger = logging.getLogger(__name__)

_USER_ERRORS = (FileNotFoundError, KeyError, ValueError, TypeError)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``scalex-scvi``."""
    parser = argparse.ArgumentParser(
        prog="scalex-scvi",
        description="Integrate single-cell data by SCALEX, and project new cells without training.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_integrate(commands)
    _add_project(commands)
    _add_demo(commands)
    return parser


def _add_integrate(commands: Any) -> None:
    parser = commands.add_parser(
        "integrate", help="integrate batches", description="Integrate batches of counts."
    )
    parser.add_argument("data", nargs="+", help=".h5ad files with counts")
    parser.add_argument("--label", help="column of obs to draw beside batch and cluster")
    _add_inputs(parser)
    _add_preprocessing(parser)
    _add_training(parser)
    _add_common(parser)


def _add_project(commands: Any) -> None:
    parser = commands.add_parser(
        "project",
        help="project new cells onto a reference",
        description="Project new cells onto an integrated reference, without training.",
    )
    parser.add_argument("data", nargs="+", help=".h5ad files with counts")
    parser.add_argument("-r", "--reference", required=True, help="run folder of 'integrate'")
    parser.add_argument("--label", help="column of the reference's obs to transfer")
    parser.add_argument("--batch-categories", nargs="+", help="names of the batches, one a file")
    parser.add_argument(
        "--min-features", type=int, default=0, help="remove cells with fewer genes (%(default)s)"
    )
    _add_log_normalized(parser)
    _add_batch_stats(parser)
    _add_common(parser)


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="run the main job on embedded or given data",
        description=(
            "Integrate all batches but one, project that one without training, transfer labels, "
            "score and draw. Without DATA: 700 real PBMCs turned into three technologies "
            "(semi-synthetic)."
        ),
    )
    parser.add_argument("data", nargs="?", help=".h5ad file with counts, batches and labels")
    parser.add_argument("--batch-key", default="batch", help="column of obs (%(default)s)")
    parser.add_argument("--label", default="celltype", help="column of obs (%(default)s)")
    parser.add_argument("--held-out", help="batch to project (the last one)")
    _add_preprocessing(parser, min_features=0)
    _add_training(parser)
    _add_common(parser)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-key", default="batch", help="column of obs (%(default)s)")
    parser.add_argument(
        "--batch-categories", nargs="+", help="names of the batches, one a file (0 to N-1)"
    )
    _add_batch_stats(parser)


def _add_batch_stats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-stats",
        choices=["running", "batch"],
        default="running",
        help="statistics of the encoder's batch normalisation (%(default)s)",
    )


def _add_log_normalized(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-normalized",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the values are log-normalised already (decided by the values)",
    )


def _add_preprocessing(parser: argparse.ArgumentParser, min_features: int = 600) -> None:
    group = parser.add_argument_group("preprocessing")
    group.add_argument(
        "--min-features",
        type=int,
        default=min_features,
        help="remove cells with fewer genes (%(default)s)",
    )
    group.add_argument(
        "--min-cells", type=int, default=3, help="remove genes in fewer cells (%(default)s)"
    )
    group.add_argument(
        "--target-sum", type=float, default=1e4, help="normalised total of a cell (%(default)g)"
    )
    group.add_argument(
        "--n-top-features",
        type=int,
        default=2000,
        help="highly variable genes to keep, -1 for all (%(default)s)",
    )
    _add_log_normalized(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--max-steps", type=int, default=30_000, help="minibatches (%(default)s)")
    group.add_argument("--batch-size", type=int, default=64, help="cells a minibatch (%(default)s)")
    group.add_argument("--lr", type=float, default=2e-4, help="learning rate (%(default)g)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--outdir", required=True, help="folder for the results")
    parser.add_argument("--seed", type=int, default=124, help="seed (%(default)s)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and messages")


def _preprocessing(args: argparse.Namespace) -> dict[str, Any]:
    names = ("min_features", "min_cells", "target_sum", "n_top_features", "log_normalized")
    return {name: getattr(args, name) for name in names}


def _training(args: argparse.Namespace) -> dict[str, Any]:
    names = ("max_steps", "batch_size", "lr")
    return {name: getattr(args, name) for name in names} | {"enable_progress_bar": not args.quiet}


def _integrate(args: argparse.Namespace) -> None:
    workflow.integrate(
        args.data,
        args.outdir,
        batch_key=args.batch_key,
        batch_categories=args.batch_categories,
        label=args.label,
        batch_stats=args.batch_stats,
        seed=args.seed,
        preprocessing=_preprocessing(args),
        training=_training(args),
    )


def _project(args: argparse.Namespace) -> None:
    workflow.project(
        args.data,
        args.reference,
        args.outdir,
        batch_categories=args.batch_categories,
        label=args.label,
        min_features=args.min_features,
        log_normalized=args.log_normalized,
        batch_stats=args.batch_stats,
        seed=args.seed,
    )


def _demo(args: argparse.Namespace) -> None:
    scores = workflow.demo(
        args.outdir,
        args.data,
        batch_key=args.batch_key,
        label=args.label,
        held_out=args.held_out,
        seed=args.seed,
        preprocessing=_preprocessing(args),
        training=_training(args),
    )
    lines = [f"{row.score:36s} {row.value:5.2f}   {row.meaning}" for row in scores.itertuples()]
    what = "Data: " + (args.data or "700 real PBMCs, technologies simulated (semi-synthetic).")
    where = [
        f"Results are in {args.outdir}/:",
        "  reference/   integrated batches: adata.h5ad, umap.png, checkpoint/, log.txt",
        "  projection/  projected batch beside the reference: adata.h5ad, umap.png",
        "  scores.csv   the table above",
    ]
    sys.stdout.write("\n".join(["", what, *lines, "", *where, ""]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments; default: those of the process.

    Returns
    -------
    Exit code: 0, or 1 after a mistake of the user's, which is explained without a traceback.
    """
    args = build_parser().parse_args(argv)
    messages = logging.StreamHandler()
    messages.setLevel(logging.WARNING if args.quiet else logging.INFO)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[messages],
    )
    # Lightning's hints are for those who write a trainer.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    run = {"integrate": _integrate, "project": _project, "demo": _demo}[args.command]
    try:
        run(args)
    except _USER_ERRORS as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.stderr.write(f"scalex-scvi {args.command}: {text}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

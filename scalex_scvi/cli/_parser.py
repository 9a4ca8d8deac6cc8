"""What can be typed: the parsers of ``scalex-scvi`` and ``SCALEX.py``."""

from __future__ import annotations

import argparse
from typing import Any

from scalex_scvi import __version__

DATA_HELP = (
    "files, folders or globs with counts, each a batch of its own: .h5ad, .h5mu/MODALITY, "
    "10x .h5, .zarr, .loom, .csv, .tsv, .txt (.gz), MatrixMarket folders"
)


class _Help(argparse.HelpFormatter):
    """Short names for values, each option's name and value on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        short = {int: "N", float: "X"}.get(action.type)  # type: ignore[call-overload]
        return short or action.dest.rpartition("_")[2].upper()

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        values = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {values}".rstrip()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``scalex-scvi``."""
    parser = argparse.ArgumentParser(
        prog="scalex-scvi",
        description="Integrate single-cell data by SCALEX, and project new cells without training.",
        epilog="'scalex-scvi COMMAND --help' lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, example, add_arguments) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"Example: scalex-scvi {name} {example}",
            formatter_class=_Help,
            allow_abbrev=False,  # their meaning would change when an option is added
        )
        add_arguments(command)
    return parser


def build_scalex_parser() -> argparse.ArgumentParser:
    """Return the parser of ``SCALEX.py``, with the flags of the published command."""
    parser = argparse.ArgumentParser(
        prog="SCALEX.py",
        description="Integrate single-cell data by SCALEX, or project new cells (--projection).",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("-d", "--data-list", dest="data", nargs="+", required=True, help=DATA_HELP)
    parser.add_argument("-p", "--projection", help="run folder of a reference to project onto")
    parser.add_argument(
        "-c", "--checkpoint", help="run folder whose model is applied to the data as it is"
    )
    parser.add_argument(
        "--repeat", action="store_true", help="return the projected cells without the reference"
    )
    _add_reading(parser)
    _add_preprocessing(parser, min_features=None)
    _add_training(parser)
    _add_results(parser)
    _add_common(parser, outdir="output/")
    return parser


def _add_integrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", help=DATA_HELP)
    _add_reading(parser)
    _add_preprocessing(parser, min_features=None)
    _add_training(parser)
    _add_results(parser)
    _add_common(parser)


def _add_project(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", help=DATA_HELP)
    parser.add_argument("-r", "--reference", required=True, help="run folder of 'integrate'")
    parser.add_argument(
        "--repeat", action="store_true", help="return the projected cells without the reference"
    )
    parser.add_argument(
        "--min-features", type=int, default=0, help="remove cells with fewer genes (%(default)s)"
    )
    parser.add_argument(
        "--unknown", action="store_true", help="transferred labels may be 'unknown'"
    )
    _add_declared(parser)
    _add_reading(parser)
    _add_results(parser)
    _add_common(parser)


def _add_transfer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help="run folder or .h5ad file with labels and latent")
    parser.add_argument(
        "query",
        nargs="?",
        help="the same of the query; without it, REFERENCE is the run folder of a projection",
    )
    parser.add_argument("--label", default="celltype", help="column of obs (%(default)s)")
    parser.add_argument("--rep", default="latent", help="key in obsm (%(default)s)")
    parser.add_argument(
        "--method",
        choices=["consensus", "discriminant", "neighbors"],
        help="linear discriminants of latent and expression together (default), of the latent "
        "alone, or the majority of neighbours",
    )
    parser.add_argument("--n-neighbors", type=int, default=10, help="neighbours (%(default)s)")
    parser.add_argument(
        "--unknown", action="store_true", help="call cells unlike the reference 'unknown'"
    )
    parser.add_argument(
        "--max-refused",
        type=float,
        default=0.05,
        help="share of held-out reference cells that --unknown may refuse (%(default)s)",
    )
    parser.add_argument(
        "--novelty",
        choices=["expression", "latent"],
        default="expression",
        help="what tells unknown cells (%(default)s)",
    )
    parser.add_argument("-o", "--out", required=True, help=".csv file for the labels")
    _add_quiet(parser)


def _add_impute(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder")
    parser.add_argument("--batch", help="decode all cells by this batch (each by its own)")
    parser.add_argument(
        "--units",
        choices=["scaled", "log_normalized"],
        default="scaled",
        help="units of the expression (%(default)s)",
    )
    parser.add_argument("--threshold", type=float, help="smaller values become 0; sparse result")
    parser.add_argument(
        "--chunk-size", type=int, default=20_000, help="cells at a time (%(default)s)"
    )
    parser.add_argument("-o", "--out", required=True, help=".h5ad or .zarr for the expression")
    _add_quiet(parser)


def _add_plot(parser: argparse.ArgumentParser) -> None:
    kinds = ["umap", "projection", "embedding", "meta", "meta-pair", "confusion"]
    parser.add_argument("run", help="run folder or .h5ad file")
    parser.add_argument("kind", choices=kinds, help="what to draw")
    parser.add_argument("--color", nargs="+", default=["celltype"], help="columns of obs")
    parser.add_argument("--groupby", default="batch", help="column of obs (%(default)s)")
    parser.add_argument("--groups", nargs="+", help="only these values of --groupby")
    parser.add_argument("--rep", default="latent", help="key in obsm, for meta (%(default)s)")
    parser.add_argument("--predicted", help="column of obs with predicted labels, for confusion")
    parser.add_argument("-o", "--out", required=True, help="picture: .png, .pdf or .svg")
    _add_quiet(parser)


def _add_assess(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder or .h5ad file")
    parser.add_argument("--batch-name", default="batch", help="column of obs (%(default)s)")
    parser.add_argument("--label", default="celltype", help="column of obs (%(default)s)")
    parser.add_argument("--rep", nargs="+", default=["latent"], help="keys in obsm (%(default)s)")
    parser.add_argument(
        "--benchmark", action="store_true", help="all scores of scib-metrics (extra 'benchmark')"
    )
    parser.add_argument("--seed", type=int, default=124, help="seed (%(default)s)")
    parser.add_argument("-o", "--out", help=".csv file for the scores")
    _add_quiet(parser)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Integrate all batches but one, project that one without training, transfer labels, "
        "score and draw. Without DATA: 700 real PBMCs turned into three technologies "
        "(semi-synthetic)."
    )
    parser.add_argument("data", nargs="?", help="counts with batches and labels")
    parser.add_argument("--batch-name", default="batch", help="column of obs (%(default)s)")
    parser.add_argument("--label", default="celltype", help="column of obs (%(default)s)")
    parser.add_argument("--held-out", help="batch to project (the last one)")
    _add_preprocessing(parser, min_features=0)
    _add_training(parser)
    _add_common(parser)


# Summary, example, and what adds the arguments.
_COMMANDS: dict[str, tuple[str, str, Any]] = {
    "integrate": (
        "integrate batches of counts",
        "a.h5ad b.h5ad --batch-categories A B -o reference",
        _add_integrate,
    ),
    "project": (
        "project new cells onto a reference, without training",
        "new.h5ad -r reference --label celltype -o projected",
        _add_project,
    ),
    "transfer": (
        "transfer labels from a reference to a query",
        "projected --unknown -o labels.csv",
        _add_transfer,
    ),
    "impute": (
        "write imputed, batch-corrected expression",
        "reference --batch A -o imputed.h5ad",
        _add_impute,
    ),
    "plot": ("draw the results of a run", "reference meta -o meta.png", _add_plot),
    "assess": ("score the results of a run", "reference -o scores.csv", _add_assess),
    "demo": ("run the main job on embedded or given data", "-o demo_output", _add_demo),
}


def _add_reading(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument(
        "-b", "--batch-categories", nargs="+", help="names of several sources (0 to N-1)"
    )
    group.add_argument(
        "--batch-name",
        default="batch",
        help="column of obs with the batches; 'a,b' combines columns (%(default)s)",
    )
    group.add_argument(
        "--batch-key",
        default="batch",
        help="column of obs for the names of several sources (%(default)s)",
    )
    group.add_argument(
        "--join",
        choices=["inner", "outer"],
        default="inner",
        help="features that all sources have, or any (%(default)s)",
    )
    group.add_argument("--use-layer", default="X", help="layer or key of obsm to use (%(default)s)")
    group.add_argument("--fraction", type=float, help="share of cells to draw")
    group.add_argument("--n-obs", type=int, help="number of cells to draw")
    group.add_argument("--backed", action="store_true", help="read from disk what is used")


def _add_declared(parser: Any) -> None:
    parser.add_argument(
        "--processed",
        action="store_true",
        help="values are normalised and selected already: only scale them",
    )
    parser.add_argument(
        "--log-normalized",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the values are log-normalised already (decided by the values)",
    )


def _add_preprocessing(parser: argparse.ArgumentParser, min_features: int | None) -> None:
    group = parser.add_argument_group("preprocessing")
    group.add_argument(
        "--profile", default="RNA", help="kind of data: RNA, ATAC or ADT (%(default)s)"
    )
    group.add_argument(
        "--min-features",
        "--min-gene",
        "--min-genes",
        dest="min_features",
        type=int,
        default=min_features,
        help="remove cells with fewer features (RNA 600, ATAC 100, ADT and demo 0)",
    )
    group.add_argument(
        "--min-cells",
        "--min-cell",
        dest="min_cells",
        type=int,
        help="remove features in fewer cells (RNA and ATAC 3)",
    )
    group.add_argument("--target-sum", type=float, help="total of a cell (RNA, ATAC 10000)")
    group.add_argument(
        "--n-top-features",
        "--n-top-genes",
        dest="n_top_features",
        metavar="N",
        help="variable features to keep, -1 for all, or a file with one a line (RNA 2000)",
    )
    _add_declared(group)


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--max-iteration",
        "--max-steps",
        dest="max_iteration",
        type=int,
        help="minibatches (2000 to 6000, the more the sparser the data; published: 30000)",
    )
    group.add_argument("--batch-size", type=int, default=64, help="cells a minibatch (%(default)s)")
    group.add_argument(
        "--lr", type=float, default=2e-3, help="learning rate (%(default)g; published: 0.0002)"
    )
    group.add_argument(
        "--lr-schedule",
        choices=["cosine", "constant"],
        default="cosine",
        help="how it changes (%(default)s; published: constant)",
    )
    group.add_argument(
        "--alignment-weight",
        type=float,
        default=1.0,
        help="weight of the distance of each batch's cells from those of all "
        "(%(default)g; published, and for batches with types of their own: 0)",
    )
    group.add_argument(
        "--start-at-mean",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start the decoder at the mean expression (published: --no-start-at-mean)",
    )
    group.add_argument(
        "-g", "--gpu", type=int, default=0, help="GPU, if there is one (%(default)s)"
    )
    group.add_argument("--num-workers", type=int, default=4, help="no effect, see SCALEX()")


def _add_results(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results")
    group.add_argument("--label", help="column of obs to draw, assess and, projecting, transfer")
    group.add_argument(
        "--batch-stats",
        choices=["running", "batch"],
        default="running",
        help="statistics of the encoder's batch normalisation (%(default)s)",
    )
    group.add_argument(
        "--eval", action="store_true", help="running statistics, whatever --batch-stats says"
    )
    group.add_argument(
        "--impute",
        nargs="?",
        const=True,
        metavar="BATCH",
        help="add imputed expression, decoded by BATCH (the first one)",
    )
    group.add_argument(
        "--chunk-size", type=int, default=20_000, help="cells imputed at a time (%(default)s)"
    )
    group.add_argument("--ignore-umap", action="store_true", help="no UMAP and clusters")
    group.add_argument("--assess", action="store_true", help="add scores")


def _add_common(parser: argparse.ArgumentParser, outdir: str | None = None) -> None:
    parser.add_argument(
        "-o",
        "--outdir",
        required=outdir is None,
        default=outdir,
        help="run folder for the results" + (" (%(default)s)" if outdir else ""),
    )
    parser.add_argument("--seed", type=int, default=124, help="seed (%(default)s)")
    parser.add_argument("--config", metavar="FILE", help="YAML file with options; typed ones win")
    _add_quiet(parser)


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and messages")
    parser.add_argument("--verbose", action="store_true", help="messages are shown anyway")

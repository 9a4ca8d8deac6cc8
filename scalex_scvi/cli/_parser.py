"""Argument parsers of ``scalex-scvi`` and ``SCALEX.py``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from scalex_scvi import __version__
from scalex_scvi._outputs import LABEL, Outputs
from scalex_scvi.io import Reading
from scalex_scvi.pp import Preparation
from scalex_scvi.train import Recipe

DATA_HELP = (
    "files, folders or globs with counts, each a batch of its own: .h5ad, .h5mu/MODALITY, "
    "10x .h5, .zarr, .loom, .csv, .tsv, .txt (.gz), MatrixMarket folders"
)

DEFAULTS = "Defaults are in parentheses."
EXIT_CODES = (
    "Exit codes: 0 fine, 1 the run failed (disk full, no network, training diverged, an error in "
    "this package), 2 wrong arguments or data, 130 interrupted (Ctrl-C). One line on stderr says "
    "why."
)

NO_LICENSE = "unknown"
"""License of a reference for which none was given, in the Hugging Face hub's words."""

_SEED = "seed (124, as published)"


class _Help(argparse.HelpFormatter):
    """Help with short names of values, and the names and value of each option on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(part, width, indent) for part in text.split("\n\n"))

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
        epilog=f"'scalex-scvi COMMAND --help' lists the options of a command. {EXIT_CODES}",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, example, add_arguments) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"{DEFAULTS} Example: scalex-scvi {name} {example}\n\n{EXIT_CODES}",
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
        epilog=EXIT_CODES,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("-d", "--data-list", dest="data", nargs="+", required=True, help=DATA_HELP)
    parser.add_argument("-p", "--projection", help="run folder of a reference to project onto")
    parser.add_argument(
        "-c", "--checkpoint", help="run folder whose model is applied to the data as it is"
    )
    _add(parser, Outputs, "repeat")
    _add_reading(parser)
    _add_preprocessing(parser)
    _add_training(parser)
    _add(parser, Outputs, "resume")
    _add_results(parser)
    _add_common(parser, outdir="output/")
    _add_without_effect(parser)
    return parser


def _add_integrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", help=DATA_HELP)
    _add_reading(parser, of_query=False)
    _add_preprocessing(parser)
    _add_training(parser)
    _add(parser, Outputs, "resume")
    _add_results(parser)
    _add_common(parser)
    _add_without_effect(parser)


def _add_project(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", help=DATA_HELP)
    parser.add_argument("-r", "--reference", required=True, help="run folder of 'integrate'")
    _add(parser, Outputs, "repeat")
    _add(
        parser,
        Preparation,
        "min_features",
        type=int,
        default=0,
        help="remove cells with fewer genes",
    )
    _add(parser, Outputs, "unknown")
    _add_declared(parser)
    _add_reading(parser)
    _add_results(parser)
    _add_common(parser)
    _add_without_effect(parser)


def _add_map(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", help=DATA_HELP)
    parser.add_argument(
        "-r",
        "--reference",
        required=True,
        help="reference: its folder, hf://OWNER/NAME, https://…, or the name of one that was "
        "fetched, or saved here, before",
    )
    parser.add_argument(
        "--labels",
        "--label",
        nargs="+",
        help="labels to transfer (all of the reference)",
    )
    _add_max_refused(parser, "share of held-out reference cells that may be called unknown")
    parser.add_argument("--report", action="store_true", help="write report.html, too")
    parser.add_argument("--update", action="store_true", help="fetch the reference anew")
    parser.add_argument("--sha256", help="SHA-256 that the reference's reference.json must have")
    _add_reading(parser)
    _add_common(parser)


def _add_max_refused(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--max-refused", type=float, default=0.05, help=f"{help} (%(default)s)")


def _add_label(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--label", "--labels", default=LABEL, help="column of obs (%(default)s)")


def _add_transfer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help="run folder or .h5ad file with labels and latent")
    parser.add_argument(
        "query",
        nargs="?",
        help="the same of the query; without it, REFERENCE is the run folder of a projection",
    )
    _add_label(parser)
    parser.add_argument("--use-rep", "--rep", default="latent", help="key in obsm (%(default)s)")
    parser.add_argument(
        "--method",
        choices=["consensus", "discriminant", "neighbors"],
        help="three classifiers of latent and expression together (default), discriminants of the "
        "latent alone, or the majority of neighbors",
    )
    parser.add_argument(
        "--n-neighbors",
        type=int,
        default=10,
        help="nearest reference cells, for --method neighbors and for --novelty expression and "
        "latent (%(default)s)",
    )
    parser.add_argument(
        "--unknown", action="store_true", help="call cells unlike the reference 'unknown'"
    )
    _add_max_refused(parser, "share of held-out reference cells that --unknown may refuse")
    parser.add_argument(
        "--novelty",
        choices=["neighborhood", "expression", "latent"],
        default="neighborhood",
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
    _add(parser, Outputs, "chunk_size", type=int)
    parser.add_argument("-o", "--out", required=True, help=".h5ad or .zarr for the expression")
    _add_quiet(parser)


def _add_plot(parser: argparse.ArgumentParser) -> None:
    kinds = ["umap", "projection", "embedding", "meta", "meta-pair", "confusion"]
    parser.add_argument("run", help="run folder or .h5ad file")
    parser.add_argument("kind", choices=kinds, help="what to draw")
    parser.add_argument("--color", nargs="+", default=[LABEL], help="columns of obs")
    parser.add_argument("--groupby", help="column of obs (that with the run's batches)")
    parser.add_argument("--groups", nargs="+", help="only these values of --groupby")
    parser.add_argument(
        "--use-rep", "--rep", default="latent", help="key in obsm, for meta (%(default)s)"
    )
    parser.add_argument("--predicted", help="column of obs with predicted labels, for confusion")
    parser.add_argument("-o", "--out", required=True, help="picture: .png, .pdf or .svg")
    parser.add_argument("--json", action="store_true", help="print scores of confusion as JSON")
    _add_quiet(parser)


def _add_assess(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder or .h5ad file")
    parser.add_argument("--batch-name", help="column of obs (that with the run's batches)")
    _add_label(parser)
    parser.add_argument(
        "--use-rep", "--rep", nargs="+", default=["latent"], help="keys in obsm (latent)"
    )
    parser.add_argument(
        "--benchmark", action="store_true", help="all scores of scib-metrics (extra 'benchmark')"
    )
    parser.add_argument("--seed", type=int, help=_SEED)
    parser.add_argument("-o", "--out", help=".csv file for the scores")
    _add_json(parser)
    _add_quiet(parser)


def _add_reference(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make a reference of the run folder of an integration: model, map and labels, without "
        "counts. 'scalex-scvi map' places new cells on it."
    )
    parser.add_argument("run", help="run folder of 'integrate'")
    parser.add_argument(
        "--labels",
        "--label",
        nargs="+",
        help=f"columns of obs whose labels new cells are to get ({LABEL}, if there is one)",
    )
    parser.add_argument("--name", help="name of the reference (that of its folder)")
    parser.add_argument(
        "--license",
        default=NO_LICENSE,
        help="license, to give it away: cc-by-4.0, mit, … (%(default)s)",
    )
    parser.add_argument(
        "--about",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="for its card: organism, tissue, description, source, citation, contact",
    )
    parser.add_argument("--obs", nargs="+", default=[], help="further columns of obs to give away")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier reference")
    parser.add_argument("-o", "--out", required=True, help="folder for the reference")
    _add_quiet(parser)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Integrate all batches but one, project that one without training, transfer labels, "
        "score and draw. Without DATA: 500 real pancreas cells of five technologies; four are "
        "integrated without ductal cells, and Smart-seq2 is projected, which has some."
    )
    parser.add_argument("data", nargs="?", help="counts with batches and labels")
    _add(parser, Reading, "batch_name")
    _add(parser, Reading, "use_layer")
    _add(parser, Outputs, "label", "--labels", default=LABEL, help="column of obs with cell types")
    parser.add_argument("--held-out", help="batch to project (the last one)")
    parser.add_argument("--left-out", help="cell type that the reference is not shown")
    _add_json(parser)
    _add_preprocessing(parser, default=0, help="remove cells with fewer features")
    _add_training(parser)
    _add_common(parser)
    _add_without_effect(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh"], help="whose script to print")


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
    "map": (
        "map new cells onto a reference by name, without training",
        "new.h5ad --reference hf://OWNER/NAME --report -o mapped",
        _add_map,
    ),
    "reference": (
        "make a reference of a run, for 'map'",
        "results --labels celltype -o pancreas",
        _add_reference,
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
    "versions": ("print the versions of what is installed", "--json", _add_json),
    "completion": (
        "print a script that completes commands and options",
        "bash > ~/.local/share/bash-completion/completions/scalex-scvi",
        _add_completion,
    ),
    "demo": ("run the main job on embedded or given data", "-o demo_output", _add_demo),
}


def _add(
    group: Any,
    cls: type,
    name: str,
    *flags: str,
    default: Any = ...,
    help: str | None = None,
    **how: Any,
) -> None:
    """Add an option for one field of a class of options.

    Parameters
    ----------
    group
        Parser, or a group of one.
    cls, name
        Class of options and the name of its field. The flag is this name, with dashes.
    *flags
        Further flags.
    default, help
        Default and help; unless given, those of the field.
    **how
        Further arguments of ``add_argument``.
    """
    field = {field.name: field for field in fields(cls)}[name]
    default = field.default if default is ... else default
    help = field.metadata["help"] if help is None else help
    if isinstance(default, bool) and "action" not in how:
        how["action"] = "store_true"
    elif default is not None and not isinstance(default, bool) and help != argparse.SUPPRESS:
        help += " (%(default)g)" if isinstance(default, float) else " (%(default)s)"
    flag = "--" + name.replace("_", "-")
    short = [extra for extra in flags if not extra.startswith("--")]
    long = [extra for extra in flags if extra.startswith("--")]
    group.add_argument(*short, flag, *long, dest=name, default=default, help=help, **how)


def _add_reading(parser: argparse.ArgumentParser, *, of_query: bool = True) -> None:
    """Add the options of reading; one that only a query reads is accepted elsewhere, and hidden."""
    group = parser.add_argument_group("input")
    _add(group, Reading, "batch_categories", "-b", nargs="+")
    _add(group, Reading, "batch_name")
    _add(group, Reading, "batch_key")
    _add(group, Reading, "join", choices=["inner", "outer"])
    _add(group, Reading, "use_layer")
    _add(group, Reading, "gene_names")
    hidden = {} if of_query else {"help": argparse.SUPPRESS}
    _add(group, Reading, "min_gene_share", type=float, **hidden)
    _add(group, Reading, "genome")
    _add(group, Reading, "fraction", type=float)
    _add(group, Reading, "n_obs", type=int)
    _add(group, Reading, "backed")


def _add_declared(parser: Any) -> None:
    _add(parser, Preparation, "processed")
    _add(parser, Preparation, "log_normalized", action=argparse.BooleanOptionalAction)


def _add_preprocessing(parser: argparse.ArgumentParser, **min_features: Any) -> None:
    group = parser.add_argument_group("preprocessing")
    _add(group, Preparation, "profile")
    names = ("--min-gene", "--min-genes")
    _add(group, Preparation, "min_features", *names, type=int, **min_features)
    _add(group, Preparation, "min_cells", "--min-cell", type=int)
    _add(group, Preparation, "target_sum", type=float)
    _add(group, Preparation, "n_top_features", "--n-top-genes", metavar="N")
    _add_declared(group)


# Help of the options of a training: the fields of Recipe, which Python code uses too, have none.
_RECIPE_HELP: Mapping[str, str] = MappingProxyType(
    {
        "max_steps": "minibatches (1000 to 3000, more for sparse data or many types; published: "
        "30000)",
        "batch_size": "cells per minibatch",
        "lr": "learning rate; published: 0.0002",
        "lr_schedule": "how the learning rate changes; published: constant",
        "alignment_weight": "how strongly batches are pulled together; published, and for batches "
        "with types of their own: 0",
        "start_at_mean": "start the decoder at the mean expression (published: --no-start-at-mean)",
        "residual": "nonlinear part of the decoder, and a mixture as the prior, for many types "
        "(published: --no-residual)",
        "remove_offsets": "remove what training leaves of the batches' offsets among neighboring "
        "cells (published: --no-remove-offsets)",
    }
)


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    how: dict[str, dict[str, Any]] = {
        "max_steps": {"type": int},
        "batch_size": {"type": int},
        "lr": {"type": float},
        "lr_schedule": {"choices": ["cosine", "constant"]},
        "alignment_weight": {"type": float},
        "start_at_mean": {"action": argparse.BooleanOptionalAction},
        "residual": {"action": argparse.BooleanOptionalAction},
        "remove_offsets": {"action": argparse.BooleanOptionalAction},
    }
    for name, arguments in how.items():
        flags = ["--max-iteration"] if name == "max_steps" else []
        _add(group, Recipe, name, *flags, help=_RECIPE_HELP[name], **arguments)
    group.add_argument(
        "-g", "--gpu", type=int, default=0, help="GPU, if there is one (%(default)s)"
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results")
    _add(group, Outputs, "label", "--labels")
    _add(group, Outputs, "batch_stats", choices=["running", "batch"])
    _add(group, Outputs, "impute", nargs="?", const=True, metavar="BATCH")
    _add(group, Outputs, "chunk_size", type=int)
    _add(group, Outputs, "ignore_umap")
    _add(group, Outputs, "assess")


def _add_common(parser: argparse.ArgumentParser, outdir: Any = Outputs.outdir) -> None:
    _add(parser, Outputs, "outdir", "-o", required=outdir is None, default=outdir)
    parser.add_argument("--seed", type=int, help=_SEED)
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with options; options that are typed win"
    )
    _add_quiet(parser)


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and messages")


def _add_without_effect(parser: argparse.ArgumentParser) -> None:
    """Accept flags of the published command that change nothing, or only repeat a default."""
    hidden = argparse.SUPPRESS
    parser.add_argument("--num-workers", type=int, default=4, help=hidden)
    parser.add_argument("--eval", action="store_true", help=hidden)
    parser.add_argument("--verbose", action="store_true", help=hidden)

"""How a run was made, in words."""

from __future__ import annotations

import platform
from typing import Any

from scalex_scvi._core.versions import versions_of

from ._report_run import Run
from ._report_tables import LATENTS

PACKAGES = ("scalex-scvi", "scvi-tools", "torch", "anndata", "scanpy")

CITATIONS = [
    (
        "Xiong et al., Online single-cell data integration through projecting heterogeneous "
        "datasets into a common cell-embedding space. Nat Commun 13:6118, 2022.",
        "https://doi.org/10.1038/s41467-022-33758-z",
    ),
    (
        "Gayoso et al., A Python library for probabilistic analysis of single-cell omics data. "
        "Nat Biotechnol 40:163, 2022.",
        "https://doi.org/10.1038/s41587-021-01206-w",
    ),
]

LONGEST = 200
"""Characters of an option, a list of genes for example, that are shown."""


def options_given(run: Run) -> dict[str, Any]:
    """Return the seed and the options that differ from their defaults."""
    rows = [["seed", run.about.get("seed", "not given"), ""]]
    defaults = run.about.get("defaults", {})
    for name, value in run.about.get("options", {}).items():
        default = _plain(defaults[name]) if name in defaults else ""
        if _plain(value) != default:
            rows.append([name, _plain(value), default])
    columns = ["option", "value", "default"]
    return {"columns": columns, "rows": rows} if defaults else _without_last(columns, rows)


def options_by_default(run: Run) -> dict[str, Any] | None:
    """Return the options that are as by default, ``None`` if there are none."""
    defaults = run.about.get("defaults", {})
    rows = [
        [name, _plain(value)]
        for name, value in run.about.get("options", {}).items()
        if name in defaults and _plain(value) == _plain(defaults[name])
    ]
    return {"columns": ["option", "value"], "rows": rows} if rows else None


def versions_table() -> dict[str, Any]:
    """Return the versions of the packages that the result depends on."""
    rows = [[name, found or "not installed"] for name, found in versions_of(PACKAGES).items()]
    return {
        "columns": ["package", "version"],
        "rows": [*rows, ["Python", platform.python_version()]],
    }


def methods(run: Run) -> str:
    """Return a paragraph for the methods section."""
    versions = versions_of(PACKAGES)
    tool = (
        f"SCALEX (Xiong et al., 2022) as implemented in scalex-scvi {versions['scalex-scvi']} on "
        f"scvi-tools {versions['scvi-tools']} (Gayoso et al., 2022)"
    )
    latent = next((run.adata.obsm[k].shape[1] for k in LATENTS if k in run.adata.obsm), None)
    space = "" if latent is None else f" into a latent space of {latent} dimensions"
    n_features = run.adata.n_vars
    if run.is_query is None:
        start = (
            f"{run.adata.n_obs} cells of {run.batches.nunique()} batches were integrated{space} by "
            f"{tool}, on {n_features} features."
        )
        parts = [start, _filtered(run), _prepared(run), _trained(run)]
    else:
        start = (
            f"{int(run.is_query.sum())} query cells were projected{space} by {tool}, with a model "
            f"trained on the reference alone, on {n_features} features."
        )
        parts = [start, _prepared(run), _labeled(run)]
    seed = run.about.get("seed")
    parts.append("" if seed is None else f"The random seed was {seed}.")
    return " ".join(part for part in parts if part)


def _filtered(run: Run) -> str:
    least = run.about.get("options", {}).get("min_features")
    return f"Cells with fewer than {least} detected features were left out." if least else ""


def _prepared(run: Run) -> str:
    record = None if run.model is None else run.model.preprocessing
    if record is None or record.log_normalized:
        return ""
    total = "" if record.target_sum is None else f"normalized to {record.target_sum:g} per cell"
    logged = "log-transformed" if record.log1p and total else ""
    steps = ", ".join(part for part in (total, logged) if part)
    return f"Counts were {steps or 'normalized'} and scaled to [0, 1] within each batch."


def _trained(run: Run) -> str:
    model, options = run.model, run.about.get("options", {})
    told = {"batch_size", "lr", "kl_weight", "alignment_weight"} <= set(options)
    if model is None or not model.history or not told:
        return ""
    n_epochs = max(len(losses) for losses in model.history.values())
    removed = (
        " Offsets of batches among neighboring cells that remained in the latent were removed from "
        "the encoder's last layer."
        if model.offsets_removed_
        else ""
    )
    return (
        f"The model was trained for {n_epochs} epochs in minibatches of {options['batch_size']} "
        f"cells (Adam, learning rate {options['lr']:g}, {options['lr_schedule']} schedule; weight "
        f"of the KL divergence {options['kl_weight']:g}, of the alignment of batches "
        f"{options['alignment_weight']:g}).{removed}"
    )


def _labeled(run: Run) -> str:
    if run.transferred is None:
        return ""
    told = (
        f"Labels ({run.labels_key}) were transferred from the reference by linear classifiers of "
        "the latent and of principal components of the expression, and by the neighbors of each "
        "cell in its own batch."
    )
    if run.may_be_unknown:
        told += (
            " Cells whose neighborhood fitted every label worse than 95 % of held-out reference "
            "cells did were called unknown."
        )
    return told


def _without_last(columns: list[str], rows: list[list[Any]]) -> dict[str, Any]:
    return {"columns": columns[:-1], "rows": [row[:-1] for row in rows]}


def _plain(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"

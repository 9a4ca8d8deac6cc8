"""How a run was made, in words."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ._report_run import Run

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


def options_table(run: Run) -> dict[str, Any]:
    """Return options, seed and versions."""
    rows = [["seed", run.about.get("seed", "not given")]]
    rows += [[name, _plain(value)] for name, value in run.about.get("options", {}).items()]
    rows += [[name, found] for name, found in _versions().items()]
    return {"columns": ["what", "value"], "rows": [*rows, ["Python", platform.python_version()]]}


def methods(run: Run) -> str:
    """Return a paragraph for the methods section."""
    versions = _versions()
    tool = (
        f"SCALEX (Xiong et al., 2022) as implemented in scalex-scvi {versions['scalex-scvi']} on "
        f"scvi-tools {versions['scvi-tools']} (Gayoso et al., 2022)"
    )
    record = None if run.model is None else run.model.preprocessing
    prepared = ""
    if record is not None and not record.log_normalized:
        total = "" if record.target_sum is None else f"normalized to {record.target_sum:g} per cell"
        logged = "log-transformed" if record.log1p and total else ""
        steps = ", ".join(part for part in (total, logged) if part)
        prepared = f" Counts were {steps or 'normalized'} and scaled to [0, 1] within each batch."
    n_features, n_batches = run.adata.n_vars, run.batches.nunique()
    latent = next((run.adata.obsm[k].shape[1] for k in ("latent",) if k in run.adata.obsm), None)
    space = "" if latent is None else f" into a latent space of {latent} dimensions"
    seed = run.about.get("seed")
    ended = "" if seed is None else f" The random seed was {seed}."
    if run.is_query is None:
        return (
            f"{run.adata.n_obs} cells of {n_batches} batches were integrated{space} by {tool}, "
            f"on {n_features} features.{prepared}{ended}"
        )
    labels = (
        f" Labels ({run.labels_key}) were transferred from the reference."
        if run.transferred is not None
        else ""
    )
    return (
        f"{int(run.is_query.sum())} query cells were projected{space} by {tool}, with a model "
        f"trained on the reference alone, on {n_features} features.{prepared}{labels}{ended}"
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _plain(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]} …"

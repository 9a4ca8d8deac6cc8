"""The card of a reference: for a person who finds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_SAID = ("organism", "tissue", "source", "contact")
"""Texts of the user that are in the first table."""

MAX_ROWS = 100
"""Rows of a table; more are counted."""


def card(facts: Mapping[str, Any]) -> str:
    """Return the card, Markdown with the head that the Hugging Face hub reads.

    Parameters
    ----------
    facts
        What ``reference.json`` says.
    """
    about, name = facts["about"], facts["name"]
    parts = [
        _head(facts),
        f"# {name}",
        _text(about.get("description"))
        or "A reference to map new single cells onto, without training.",
        _table(["what", "this reference"], _what(facts)),
        "## Use",
        _use(facts),
        *(
            part
            for key, counts in facts["labels"].items()
            for part in (f"## Labels: {_text(key)}", _counts("label", counts))
        ),
        "## Batches",
        _counts("batch", facts["batches"]),
        "## What is in it, and what is not",
        _contents(facts),
        "## How it was made",
        _training(facts),
        "## Citation",
        _citation(about),
    ]
    return "\n\n".join(parts) + "\n"


def _head(facts: Mapping[str, Any]) -> str:
    tags = ["biology", "genomics", "single-cell", "scvi-tools", "scalex-scvi"]
    organism = facts["about"].get("organism")
    lines = [
        "---",
        # JSON text is YAML text, whatever is in it.
        f"license: {json.dumps(facts['license'])}",
        "library_name: scalex-scvi",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in [*tags, *([f"organism:{organism}"] * bool(organism))]),
        "---",
    ]
    return "\n".join(lines)


def _what(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    about = facts["about"]
    said = [(key, about[key]) for key in _SAID if key in about]
    genes = ", ".join(facts["genes"])
    return [
        *said,
        ("license", facts["license"]),
        ("cells", f"{facts['n_cells']:,}"),
        ("features", f"{facts['n_genes']:,}, named like {genes}"),
        ("batches", f"{len(facts['batches']):,}"),
        ("labels", ", ".join(facts["labels"]) or "none"),
        ("latent dimensions", str(facts["n_latent"])),
    ]


def with_address(text: str, facts: Mapping[str, Any], address: str) -> str:
    """Return a card that says the address by which the reference is used; edited ones keep theirs.

    Parameters
    ----------
    text
        The card, as :func:`card` wrote it or edited since.
    facts
        What ``reference.json`` says.
    address
        Where it is now.
    """
    return text.replace(_use(facts), _use(facts, address))


def _use(facts: Mapping[str, Any], address: str | None = None) -> str:
    """Say how to use it: by its address, or by the path of the folder that the card lies in."""
    where = address or f"path/to/{facts['name']}"
    comment = "" if address else "  # this folder"
    key = facts["batch_key"]
    batch = "" if key is None else f' and the batches in `obs["{key}"]`'
    return (
        f"New cells: counts in `X`, features by name{batch}. Nothing is trained, and nothing of "
        "the reference moves.\n\n"
        "```python\nimport scalex_scvi as sx\n\n"
        f'sx.map_query(query, "{where}"){comment}\n'
        "```\n\n"
        "```sh\n"
        f"scalex-scvi map new.h5ad --reference {where} --report -o mapped{comment}\n```"
    )


def _contents(facts: Mapping[str, Any]) -> str:
    columns = [*([facts["batch_key"]] if facts["batch_key"] else []), *facts["labels"]]
    columns = list(dict.fromkeys([*columns, *facts["obs"]]))
    kept = ", ".join(_text(column) for column in columns) or "none"
    labels = (
        ", the mean expression of each label, directions of the expression, and how far held-out "
        "cells were from their labels (`labels.npz`)"
        if facts["labels"]
        else ""
    )
    return (
        "In it: the network and the transform of counts (`model.pt`); for each cell mean and "
        "variance of its latent, its position on the map, and these columns of `obs`: "
        f"{kept} (`adata.h5ad`){labels}.\n\n"
        "Not in it: counts, the names of the cells, other columns.\n\n"
        "`reference.json` has the SHA-256 of each file, which is checked when it is loaded. No "
        "file holds code."
    )


def _training(facts: Mapping[str, Any]) -> str:
    training, versions = facts["training"], facts["versions"]
    total = training["target_sum"]
    normalized = "" if total is None else f", normalized to {total:g} per cell"
    return (
        f"SCALEX, trained for {training['epochs']} epochs on counts ({training['profile']}"
        f"{normalized}, over {training['normalized_over']:,} features) by "
        + ", ".join(f"{name} {found}" for name, found in versions.items())
        + "."
        + _sampled(facts)
    )


def _sampled(facts: Mapping[str, Any]) -> str:
    """Say of how many cells the labels were learned, if not of all; nothing of older references."""
    n_learned, n_cells = facts["training"].get("label_cells", 0), facts["n_cells"]
    if not 0 < n_learned < n_cells:
        return ""
    return (
        f"\n\nLabels were learned from a sample of {n_learned:,} of the {n_cells:,} cells, drawn "
        "at random after some of each label. The latent and the tables above are of all cells."
    )


def _citation(about: Mapping[str, str]) -> str:
    method = (
        "Xiong et al., Online single-cell data integration through projecting heterogeneous "
        "datasets into a common cell-embedding space, Nat Commun 13:6118, 2022 "
        "(https://doi.org/10.1038/s41467-022-33758-z)."
    )
    of_data = _text(about.get("citation"))
    return f"The data: {of_data}\n\nThe method: {method}" if of_data else f"The method: {method}"


def _counts(what: str, counts: Mapping[str, int]) -> str:
    rows = [(name, f"{n:,}") for name, n in list(counts.items())[:MAX_ROWS]]
    if len(counts) > MAX_ROWS:
        rows.append((f"{len(counts) - MAX_ROWS} more", ""))
    return _table([what, "cells"], rows)


def _table(columns: Sequence[str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows)])


def _text(value: Any) -> str:
    """One line, in which nothing is taken for a table or for HTML."""
    text = " ".join(str(value or "").split())
    return text.replace("|", "\\|").replace("<", "&lt;")

"""The report of a run: which cells are new, how well batches are mixed, and how it was made."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from scalex_scvi._core.colors import UNKNOWN
from scalex_scvi._core.files import whole_file

from ._categories import categories_of
from ._report_drawings import loss_curves, marker_dots
from ._report_maps import map_data, map_groups
from ._report_run import Run
from ._report_tables import (
    cells_kept,
    confidence_of_clusters,
    confusion_table,
    features_found,
    scores_of,
)
from ._report_text import (
    CITATIONS,
    methods,
    options_by_default,
    options_given,
    versions_table,
)
from ._report_unknown import unknown_cells
from ._report_verdict import training_verdict

if TYPE_CHECKING:
    from scalex_scvi.model import SCALEXModel


def report(
    adata: AnnData,
    path: str | os.PathLike[str],
    *,
    model: SCALEXModel | None = None,
    before: AnnData | None = None,
    labels_key: str | None = None,
    batch_key: str = "batch",
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a report of an integration or a projection: one HTML file that needs no network.

    It opens in any browser. Parts for which ``adata`` lacks the data are left out: maps that are
    not in ``obsm``, the confusion matrix without true labels, the losses without a training.

    Parameters
    ----------
    adata
        Result of :func:`scalex_scvi.SCALEX` or a run folder's ``adata.h5ad``: cells with
        ``obsm["latent"]``, ``obsm["X_umap"]``, and after a projection ``obs["projection"]`` and
        ``obs[f"{labels_key}_transfer"]``. It is not changed. Of more than 100 000 cells, 100 000
        at random are on the maps.
    path
        ``.html`` file. Written whole or not at all; the folder must exist.
    model
        The trained model: for the losses and how counts were prepared.
    before
        Cells before the filters, to count what was kept; of a projection, the query.
    labels_key
        Column of ``obs`` with cell types; ``None``: there are none.
    batch_key
        Column of ``obs`` with the batches.
    about
        How the run was made, for the end of the report: ``"command"``, ``"seed"``, ``"options"`` (a
        mapping) and ``"defaults"`` (a mapping with the same keys): options that differ from their
        defaults are shown first.

    Returns
    -------
    The path.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    KeyError
        If a column is absent.
    ValueError
        If ``path`` does not end in ``.html``.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".html":
        msg = f"`path` {str(path)!r} must end in '.html'."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"`path` {str(path)!r}: there is no folder {str(path.parent)!r}. Make it first."
        raise FileNotFoundError(msg)
    for key, argument in ((batch_key, "batch_key"), (labels_key, "labels_key")):
        if key is not None:
            categories_of(adata, key, argument)
    run = Run(adata, model, before, labels_key, batch_key, dict(about or {}))
    text = _page(run)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _page(run: Run) -> str:
    """Return the HTML."""
    # Here: a run that writes no report need not load it.
    from jinja2 import Environment
    from markupsafe import Markup

    folder = files("scalex_scvi.pl") / "report"
    template = Environment(autoescape=True).from_string((folder / "page.html").read_text("utf-8"))
    data, groups = map_data(run), map_groups(run)
    data["panels"] = [panel for group in groups for panel in group["panels"]]
    markers, losses = marker_dots(run), loss_curves(run)
    scores = scores_of(run)
    if markers:
        markers["svg"] = Markup(markers["svg"])
    if losses:
        losses["svgs"] = [Markup(svg) for svg in losses["svgs"]]
    return template.render(
        title=run.title,
        subtitle=run.subtitle,
        facts=_facts(run),
        trained=training_verdict(run, scores),
        unknown=unknown_cells(run),
        map_groups=groups,
        kept=cells_kept(run),
        genes=features_found(run),
        confidence=confidence_of_clusters(run),
        markers=markers,
        confusion=confusion_table(run),
        scores=scores,
        losses=losses,
        command=run.about.get("command"),
        options=options_given(run),
        defaults=options_by_default(run),
        versions=versions_table(),
        methods=methods(run),
        citations=CITATIONS,
        css=Markup((folder / "page.css").read_text("utf-8")),
        # "<" would end the element that holds it.
        data=Markup(json.dumps(data).replace("<", "\\u003c")),
        script=Markup((folder / "map.js").read_text("utf-8")),
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """Numbers for the head of the page."""
    facts = [("features of the model", run.adata.n_vars), ("batches", run.batches.nunique())]
    if run.is_query is None:
        facts.insert(0, ("cells", run.adata.n_obs))
    else:
        found = [("query cells", int(run.is_query.sum()))]
        if run.transferred is not None and run.may_be_unknown:
            n_unknown = int(np.sum((run.transferred == UNKNOWN)[run.is_query]))
            found.append(("of them called unknown", n_unknown))
        if not run.is_query.all():
            found.append(("reference cells", int((~run.is_query).sum())))
        facts = [*found, *facts]
    if run.is_query is None and run.labels is not None:
        facts.append(("cell types", run.labels.nunique()))
    return [(name, f"{value:,}") for name, value in facts]

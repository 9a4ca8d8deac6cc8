"""Opening a reference."""

from __future__ import annotations

import logging
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from scalex_scvi._core.keys import UMAP_KEY
from scalex_scvi.model import SCALEXModel
from scalex_scvi.tl import LabelModel, LabelScores

from ._fetch import fetched
from ._format import ABOUT_FILE, CARD_FILE, LABELS_FILE, read_about

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference to map new cells onto: a trained model without counts, its map and labels.

    :func:`load` makes it, :func:`scalex_scvi.map_query` takes it.

    Attributes
    ----------
    folder
        Folder with its files.
    about
        Content of ``reference.json``: ``"name"``, ``"license"``, ``"about"``, ``"n_cells"``,
        ``"batches"`` and ``"labels"`` with the cells of each, ``"training"``, ``"versions"``, …
    model
        The model, minified: ``model.adata`` has the latent of each cell, its batch, labels and
        ``obsm["X_umap"]``.
    label_models
        Statistics that new cells get labels from, by column of labels.
    """

    folder: Path
    about: dict[str, Any]
    model: SCALEXModel
    label_models: dict[str, LabelModel]

    @property
    def name(self) -> str:
        """Name of the reference."""
        return str(self.about["name"])

    @property
    def labels(self) -> list[str]:
        """Columns of ``obs`` that labels can be transferred from."""
        return list(self.label_models)

    @property
    def card(self) -> str:
        """The card, Markdown: what it is, whose, and how it was made."""
        path = self.folder / CARD_FILE
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def label_scores(
        self, query: AnnData, labels_key: str, *, use_rep: str, max_refused: float = 0.05
    ) -> LabelScores:
        """Give each cell of a query a label: see :func:`scalex_scvi.tl.label_scores`.

        Parameters
        ----------
        query
            Prepared cells, as :meth:`~scalex_scvi.SCALEXModel.get_prepared` of the query's model
            returns them, with ``obsm[use_rep]``. Their batches are in the column of ``obs`` that
            the reference has its batches in; where the query has no such column, all its cells are
            one batch, and a message is logged.
        labels_key
            One of :attr:`labels`.
        use_rep
            Key in ``obsm`` of the latent.
        max_refused
            Share of held-out reference cells that may be called unknown.

        Returns
        -------
        Labels, probabilities, p-values and which cells are unknown.

        Raises
        ------
        KeyError
            If the reference has no such labels, or ``use_rep`` is absent.
        ValueError
            If the genes differ, batches are missing, or there are too few held-out cells for
            ``max_refused``.
        """
        self.check_labels(labels_key)
        batch_key = self.model.batch_key
        if batch_key is not None and batch_key not in query.obs:
            logger.info("The query has no obs[%r]: all its cells are one batch.", batch_key)
            batch_key = None
        return self.label_models[labels_key].scores(
            query, use_rep, batch_key=batch_key, max_refused=max_refused
        )

    def check_labels(self, labels_key: str) -> None:
        """Raise a ``KeyError`` unless the reference has these labels."""
        if labels_key not in self.label_models:
            msg = f"`labels` {labels_key!r} is not one of {self.name!r}, which has {self.labels!r}."
            raise KeyError(msg)

    def __repr__(self) -> str:
        about, labels = self.about, ", ".join(self.labels) or "none"
        return (
            f"Reference {self.name!r}: {about['n_cells']} cells × {about['n_genes']} features, "
            f"{len(about['batches'])} batches, labels: {labels}, license: {about['license']}"
        )


def load(
    where: str | os.PathLike[str], *, sha256: str | None = None, update: bool = False
) -> Reference:
    """Open a reference, and fetch it if need be. No code of it is executed.

    Parameters
    ----------
    where
        - the folder that :func:`save` wrote;
        - ``"hf://OWNER/NAME"``, on the Hugging Face hub, or ``"hf://OWNER/NAME@REVISION"``;
        - the address of such a folder on a server, ``"https://…"``;
        - the name of one that was fetched before, or saved on this machine (:func:`available`);
          a folder of that name in the working directory comes first.
    sha256
        Expected SHA-256 of its ``reference.json``, which contains those of all other files: given
        this, no other reference is accepted, wherever it comes from. Without it, files are still
        checked against ``reference.json``, so that damage is found.
    update
        Whether to fetch it again. By default a reference that was fetched before is used, without
        a network. Fetched references are kept in the folder that the environment variable
        ``SCALEX_SCVI_CACHE`` names, else in the system's cache folder. Has no effect on a folder.

    Returns
    -------
    The reference, with its model and label statistics.

    Raises
    ------
    FileNotFoundError
        If there is no such reference, or a file of it is missing.
    ConnectionError
        If it cannot be reached. Nothing is kept then of a partial download.
    ImportError
        Without huggingface_hub or pooch (extra ``hub``).
    ValueError
        If it is no reference, is damaged, of a later format, or not the one that ``sha256`` means,
        or if several have the name: all of them are listed, to be given by folder or address.
    TypeError
        If ``where`` is neither text nor a path.

    Examples
    --------
    >>> import scalex_scvi as sx
    >>> reference = sx.references.load("pancreas")  # or "hf://owner/pancreas"
    >>> card = reference.card
    >>> query_model = sx.map_query(query, reference, labels=reference.labels)
    """
    folder = fetched(where, sha256, update=update)
    about = read_about(folder / ABOUT_FILE)
    model = SCALEXModel.load(folder)
    label_models = _read_labels(folder / LABELS_FILE)
    _check_cells(folder, about, model)
    if list(label_models) != list(about["labels"]):
        msg = (
            f"{str(folder)!r} cannot be used: its labels are {list(label_models)!r}, and should be "
            f"{list(about['labels'])!r}."
        )
        raise ValueError(msg)
    return Reference(folder, about, model, label_models)


def is_reference(folder: Path) -> bool:
    """Whether a folder holds a reference: what :func:`save` wrote.

    Parameters
    ----------
    folder
        The folder; it need not exist.
    """
    return (folder / ABOUT_FILE).is_file()


def _read_labels(path: Path) -> dict[str, LabelModel]:
    """Read arrays, and nothing that would have to be executed."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{str(path)!r} cannot be read: {error}"
        raise ValueError(msg) from error
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, values in arrays.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = values
    models = [LabelModel.from_arrays(group) for group in groups.values()]
    return {model.labels_key: model for model in models}


def _check_cells(folder: Path, about: dict[str, Any], model: SCALEXModel) -> None:
    adata = model.adata
    wanted = [*([] if about["batch_key"] is None else [about["batch_key"]]), *about["labels"]]
    lacking = list(wanted) if adata is None else [key for key in wanted if key not in adata.obs]
    if adata is None or lacking or model.minified_data_type is None or adata.n_obs < 1:
        msg = f"{str(folder)!r} cannot be used: its cells are missing, or lack {lacking!r}."
        raise ValueError(msg)
    if UMAP_KEY in adata.obsm and adata.obsm[UMAP_KEY].shape != (adata.n_obs, 2):
        msg = f"{str(folder)!r} cannot be used: its map is not of two dimensions."
        raise ValueError(msg)

"""Import of models that the published package trained."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from scalex_scvi.pp import Preprocessing, ScaleBy

from ._checksum import impossible_numbers
from ._published_config import PublishedConfig, load_restricted, read_config
from ._saving import torch_device

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

DROPPED_PREFIXES = ("ERCC", "MT-", "mt-")
"""What the published package leaves out."""

BATCH_KEY = "batch"
"""Column of ``obs`` in which the published package keeps the batch."""

_CHUNK = 4096

_ACTIVATIONS = {
    "relu": "relu",
    "leaky_relu": "leaky_relu",
    "rrelu": "rrelu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "": "none",
}

_NORM_STATE = ("weight", "bias", "running_mean", "running_var")


class PublishedMixin(_Base):
    """Adds :meth:`from_scalex` to a model."""

    @classmethod
    def from_scalex(
        cls,
        folder: str | os.PathLike[str],
        *,
        target_sum: float = 1e4,
        dropped_prefixes: Sequence[str] = DROPPED_PREFIXES,
        scale_by: ScaleBy = "global",
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """Import a model that the published package ``scalex`` trained. No training, no data.

        The latent equals that of the saved published network in eval mode. The one in the
        ``adata.h5ad`` of such a run differs: it is computed in train mode, and, where training did
        not stop early, with the last weights, while the best ones are saved. No code of the files
        is executed, and the published package need not be installed.

        The files do not record how the counts were prepared; the defaults here are those of
        ``scalex`` 1.0.4. It divides each gene by one maximum over all cells, in a query by that
        over all cells of the query, whatever their batch (``scale_by="global"``).
        :meth:`load_query_data` then does the same for new batches. Cells of the model's own batches
        keep the reference's maxima where the run folder has ``adata.h5ad`` to take them from.

        Parameters
        ----------
        folder
            Run folder of the published package (its ``outdir``), or the ``checkpoint`` folder in
            it, with ``model.pt`` and ``config.pt``. From ``adata.h5ad`` in the run folder, if it
            is there, come the names of the batches (else ``"0"``, ``"1"``, …) and, if it holds
            ``raw``, the maximum of each gene, which ``units="log_normalized"`` of
            :meth:`get_imputed_expression` needs.
        target_sum
            Total counts of a cell after normalization in that run.
        dropped_prefixes
            Genes that the run left out before normalizing; ``()`` for a run with ``keep_mt`` or
            with ``profile="ATAC"``.
        scale_by
            ``"batch"`` for runs of versions that scaled within each batch (up to 1.0.2, by their
            documentation).
        accelerator, device
            Where to put the model.

        Returns
        -------
        A trained model without data, as :meth:`load` with ``adata=False`` gives: for
        :meth:`load_query_data`, :meth:`save`, or :meth:`get_latent_representation` of given cells
        with the model's genes, scaled to [0, 1], and their batch in ``obs["batch"]``.

        Raises
        ------
        FileNotFoundError
            If there are no such files.
        ValueError
            If a file is damaged, names code (which is not executed), or describes a network that
            this package cannot hold.

        References
        ----------
        Xiong et al., Nat Commun 13:6118, 2022; ``scalex`` 1.0.4 on PyPI.
        """
        run, checkpoint = _find(Path(folder).expanduser())
        config = read_config(checkpoint / "config.pt")
        architecture = _architecture(config)
        state = _our_names(load_restricted(checkpoint / "model.pt"), config)
        names, scale = _read_run(run / "adata.h5ad", config, scale_by)
        cells = _stand_in(config.genes, names)
        cls.setup_anndata(cells, batch_key=BATCH_KEY, processed=True)
        registry = cls._manager_to_forget(cells).registry
        model = cls(None, registry=registry, **architecture)
        try:
            model.module.load_state_dict(state)
        except RuntimeError as error:
            msg = f"The weights in {str(checkpoint)!r} do not fit its configuration: {error}"
            raise ValueError(msg) from error
        problem = impossible_numbers(state)
        if problem is not None:
            msg = f"The weights in {str(checkpoint)!r} cannot be used: {problem}."
            raise ValueError(msg)
        model.preprocessing = Preprocessing(
            target_sum=target_sum,
            scale_by=scale_by,
            dropped_prefixes=tuple(dropped_prefixes),
            genes=tuple(config.genes),
            scale=scale,
            new_batches="own",
            batch_key=BATCH_KEY,
        )
        model.is_trained_ = True
        model.to_device(torch_device(accelerator, device))
        model.module.eval()
        return model


def _find(folder: Path) -> tuple[Path, Path]:
    """Run folder and checkpoint folder, from either."""
    for run, checkpoint in [(folder, folder / "checkpoint"), (folder.parent, folder)]:
        if (checkpoint / "config.pt").is_file() and (checkpoint / "model.pt").is_file():
            return run, checkpoint
    msg = (
        f"{str(folder)!r} holds no 'checkpoint/config.pt' with 'checkpoint/model.pt'. Give the "
        "`outdir` of a run of the published package, or the 'checkpoint' folder in it."
    )
    raise FileNotFoundError(msg)


def _architecture(config: PublishedConfig) -> dict[str, Any]:
    """Arguments of the model, from layers given as ``[kind, width, norm, activation, dropout]``."""
    try:
        encoder = [_Layer(*layer) for layer in config.encoder]
        decoder = [_Layer(*layer) for layer in config.decoder]
    except TypeError as error:
        msg = f"The published configuration describes a layer that is none: {error}."
        raise ValueError(msg) from error
    if len(encoder) < 2 or not decoder:
        msg = "The published network has no hidden layer in the encoder, or no decoder."
        raise ValueError(msg)
    *hidden, latent = encoder
    *hidden_decoder, output = decoder
    first = hidden[0]
    wanted = [
        ("a hidden layer", hidden, ["fc", first.width, 1, first.activation, first.dropout]),
        ("the latent layer", [latent], ["fc", latent.width, "", "", 0]),
        ("a hidden decoder layer", hidden_decoder, ["fc", first.width, 1, first.activation, 0]),
        ("the output layer", [output], ["fc", len(config.genes), config.n_batch, "sigmoid", 0]),
    ]
    for which, layers, expected in wanted:
        for layer in layers:
            if layer.as_list() != expected:
                msg = (
                    f"The published network cannot be imported: {which} is {layer.as_list()!r}, "
                    f"where only {expected!r} is possible (kind, width, normalization, "
                    "activation, dropout; hidden layers must be alike)."
                )
                raise ValueError(msg)
    if first.activation not in _ACTIVATIONS:
        msg = (
            f"The published network has the activation {first.activation!r}; possible are "
            f"{list(_ACTIVATIONS)!r}."
        )
        raise ValueError(msg)
    return {
        "n_hidden": first.width,
        "n_latent": latent.width,
        "n_layers": len(hidden),
        "n_layers_decoder": len(hidden_decoder),
        "n_residual": 0,
        "n_prior_components": 1,
        "activation": _ACTIVATIONS[first.activation],
        "dropout_rate": first.dropout,
    }


class _Layer:
    """One layer of a published configuration, with its defaults filled in."""

    def __init__(
        self, kind: str, width: int, norm: int | str = "", activation: str = "", dropout: float = 0
    ) -> None:
        self.kind, self.width, self.norm = kind, width, norm
        self.activation, self.dropout = activation, dropout

    def as_list(self) -> list[Any]:
        return [self.kind, self.width, self.norm, self.activation, self.dropout]


def _our_names(state: Mapping[str, torch.Tensor], config: PublishedConfig) -> dict[str, Any]:
    """Rename the tensors, and stack those of the batches."""
    last = len(config.decoder) - 1
    new_prefixes = {
        "encoder.mu_enc.net.0.fc.": "encoder.mean_head.",
        "encoder.var_enc.net.0.fc.": "encoder.log_var_head.",
        f"decoder.net.{last}.fc.": "decoder.linear.",
    }
    for i in range(len(config.encoder) - 1):
        new_prefixes[f"encoder.enc.net.{i}.fc."] = f"encoder.layers.{i}.linear."
        new_prefixes[f"encoder.enc.net.{i}.norm."] = f"encoder.layers.{i}.norm."
    for i in range(last):
        new_prefixes[f"decoder.net.{i}.fc."] = f"decoder.layers.{i}.linear."
        new_prefixes[f"decoder.net.{i}.norm."] = f"decoder.layers.{i}.norm."
    renamed = {
        new + name.removeprefix(old): tensor
        for old, new in new_prefixes.items()
        for name, tensor in state.items()
        if name.startswith(old)
    }
    norm = f"decoder.net.{last}.norm"
    # With one batch it is an ordinary batch normalization.
    norms = [norm] if config.n_batch == 1 else [f"{norm}.bns.{i}" for i in range(config.n_batch)]
    try:
        for part in _NORM_STATE:
            renamed[f"decoder.norm.{part}"] = torch.stack([state[f"{n}.{part}"] for n in norms])
    except KeyError as error:
        msg = f"The published weights lack the tensor {error.args[0]!r}."
        raise ValueError(msg) from error
    return renamed


def _read_run(
    path: Path, config: PublishedConfig, scale_by: ScaleBy
) -> tuple[list[Any], pd.DataFrame]:
    """Names of the batches, and genes × batches maxima: no column where they are not known."""
    names: list[Any] = [str(i) for i in range(config.n_batch)]
    unknown = pd.DataFrame(index=config.genes)
    if not path.is_file():
        logger.info("There is no %s: the batches are named %s.", path, ", ".join(names))
        return names, unknown
    with h5py.File(path) as file:
        obs = read_elem(file["obs"])
        found = obs[BATCH_KEY].astype("category") if BATCH_KEY in obs else pd.Series(dtype=object)
        if found.dtype != "category" or len(found.cat.categories) != config.n_batch:
            logger.warning(
                "%s does not hold the %d batches of the model in obs['batch']; they are named %s.",
                path,
                config.n_batch,
                ", ".join(names),
            )
            return names, unknown
        names = list(found.cat.categories)
        maxima = _raw_maxima(file, config.genes, found.cat.codes.to_numpy(), config.n_batch)
    if maxima is None:
        logger.info("%s holds no raw expression of the model's genes: no scale is known.", path)
        return names, unknown
    if scale_by == "global":
        maxima[:] = maxima.max(axis=0)
    return names, pd.DataFrame(maxima.T, index=config.genes, columns=[str(n) for n in names])


def _raw_maxima(
    file: h5py.File, genes: Sequence[str], codes: np.ndarray, n_batch: int
) -> np.ndarray | None:
    """Batches × genes: largest log-normalized expression in ``raw``, read in chunks."""
    if "raw" not in file:
        return None
    columns = read_elem(file["raw/var"]).index.get_indexer(list(genes))
    if (columns < 0).any():
        return None
    stored = file["raw/X"]
    matrix = sparse_dataset(stored) if isinstance(stored, h5py.Group) else stored
    maxima = np.zeros((n_batch, len(genes)), dtype=np.float32)
    for start in range(0, len(codes), _CHUNK):
        rows = sparse.csr_matrix(matrix[start : start + _CHUNK])[:, columns]
        batch = codes[start : start + _CHUNK]
        for code in np.unique(batch):
            largest = rows[batch == code].max(axis=0).toarray().ravel()
            np.maximum(maxima[code], largest, out=maxima[code])
    return maxima


def _stand_in(genes: Sequence[str], batches: Sequence[Any]) -> AnnData:
    """Empty cells, to register a model without data: three a batch, as scvi-tools wants."""
    codes = np.repeat(np.arange(len(batches)), 3)
    return AnnData(
        X=sparse.csr_matrix((len(codes), len(genes)), dtype=np.float32),
        obs=pd.DataFrame(
            {BATCH_KEY: pd.Categorical.from_codes(codes, categories=list(batches))},
            index=[str(i) for i in range(len(codes))],
        ),
        var=pd.DataFrame(index=pd.Index(genes)),
    )

"""Ours with options beside the defaults: ``scalex_scvi:kl_weight=1,n_hidden=256``."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from scalex_scvi import SCALEXModel
from scalex_scvi.nn import Encoder

PREPARATION = ("scale_by", "n_top_features")
"""Options of preprocessing; the embedding is scored on the genes of all methods all the same."""


def parse(name: str) -> tuple[str, dict[str, Any]]:
    """Split ``method:key=value,...`` into the method and its options."""
    method, _, text = name.partition(":")
    pairs = (pair.split("=", 1) for pair in text.split(",") if pair)
    return method, {key: _value(value) for key, value in pairs}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def preparation(options: dict[str, Any]) -> dict[str, Any]:
    """Pick the options that preprocessing takes."""
    return {key: value for key, value in options.items() if key in PREPARATION}


def train(adata: AnnData, batch_key: str, seed: int, **options: Any) -> SCALEXModel:
    """Train with options of preprocessing (taken already), the model, training, and two more.

    ``encoder_batch_norm=False`` leaves out the encoder's normalisation; ``balanced=True`` draws
    minibatches in which all batches are expected equally often.
    """
    SCALEXModel.setup_anndata(adata, batch_key=batch_key)
    of_model = inspect.signature(SCALEXModel.__init__).parameters
    rest = {key: value for key, value in options.items() if key not in PREPARATION}
    model_options = {key: rest.pop(key) for key in list(rest) if key in of_model}
    encoder_batch_norm = rest.pop("encoder_batch_norm", True)
    balanced = rest.pop("balanced", False)
    model = SCALEXModel(adata, seed=seed, **model_options)
    if not encoder_batch_norm:
        torch.manual_seed(seed)
        n_latent, n_hidden = model.module.n_latent, model_options.get("n_hidden", 1024)
        model.module.encoder = Encoder(adata.n_vars, n_latent, n_hidden=n_hidden, batch_norm=False)
    if balanced:
        sampler = _balanced_sampler(adata, batch_key, seed, rest)
        rest["datasplitter_kwargs"] = {"sampler": sampler, "collate_fn": _only}
    model.train(seed=seed, enable_progress_bar=False, **rest)
    return model


def _balanced_sampler(
    adata: AnnData, batch_key: str, seed: int, options: dict[str, Any]
) -> torch.utils.data.Sampler:
    codes = adata.obs[batch_key].astype("category").cat.codes.to_numpy()
    weights = 1 / np.bincount(codes)[codes]
    generator = torch.Generator().manual_seed(seed)
    size = options.get("batch_size", 64)
    drawn = torch.utils.data.WeightedRandomSampler(weights, adata.n_obs, generator=generator)
    return torch.utils.data.BatchSampler(drawn, min(size, adata.n_obs), drop_last=True)


def _only(parts: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Take the minibatch that the sampler drew as one item."""
    return {key: torch.as_tensor(value) for key, value in parts[0].items()}

"""Normalized expression in scvi-tools' terms: draws of the posterior, decoded, as counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from scalex_scvi._core.chosen import chosen_cells
from scalex_scvi._core.modalities import Cells
from scalex_scvi._core.ranges import check_whole
from scalex_scvi._core.scvi_private import MODULE_KEYS
from scalex_scvi._core.seeds import seeded
from scalex_scvi.pp import Preprocessing

from ._refused import refuse

if TYPE_CHECKING:
    from ._imputation import ImputationMixin as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

_CELLS_AT_ONCE = 4096


@dataclass(frozen=True)
class Posterior:
    """Mean and variance of the latent of some cells, and the batch that each was measured in.

    ``mean`` and ``var`` are ``(n_cells, n_latent)``, ``codes`` is ``(n_cells,)``.
    """

    mean: np.ndarray
    var: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def at(self, cells: np.ndarray) -> Posterior:
        """Take some cells, which may repeat."""
        return Posterior(self.mean[cells], self.var[cells], self.codes[cells])

    def draw(self) -> np.ndarray:
        """One draw for each cell, by torch's global generator."""
        noise = torch.randn(self.mean.shape).numpy()
        return self.mean + np.sqrt(self.var) * noise


class ExpressionMixin(_Base):
    """Adds :meth:`get_normalized_expression` to a model that decodes."""

    def get_normalized_expression(
        self,
        adata: Cells | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Any | Sequence[Any] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | str = 1,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        weights: str | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool | None = None,
        silent: bool = True,
        dataloader: Iterator[dict[str, Tensor | None]] | None = None,
        **more: Any,
    ) -> pd.DataFrame | np.ndarray:
        r"""Expression decoded from draws of the latent, as share of a cell's counts.

        As scVI's method of this name: with ``transform_batch``, all cells are decoded as if they
        had been measured in that batch, or in each of some and averaged. The decoder returns
        :math:`p \in [0, 1]`; this is :math:`(\exp(p \, s_{bg}) - 1) / t`, with the maximum
        :math:`s_{bg}` of gene :math:`g` in batch :math:`b` and the total :math:`t` of the
        preprocessing record. The model is fitted to logarithms, so that this is nearer to a
        geometric than to an arithmetic mean, and lower than scVI's.

        The draws are seeded, so that a call repeats; :meth:`get_imputed_expression` decodes the
        mean of the posterior instead.

        Parameters
        ----------
        adata
            Cells of batches that the model knows; default: the model's own.
        indices
            Cells to use, numbers or a mask; default: all.
        transform_batch
            Name of the batch to decode in. ``None``: each cell's own; a list: the mean over these.
            A gene without counts in a batch has no scale there, and is zero when decoded in it.
        gene_list
            Genes to return; default: all of the model.
        library_size
            Total counts per cell of the result: 1 (as in scVI) returns shares, ``1e4`` what most
            tools normalize to. The total is over the genes that a cell was normalized over, which
            may be more than those of the model. ``"latent"`` is refused: SCALEX has no library
            size of its own.
        n_samples
            Draws of the posterior for each cell.
        n_samples_overall
            Draws from all cells together, of cells taken at random, in the place of ``n_samples``.
        weights
            ``None`` or ``"uniform"``. ``"importance"`` is refused, see :meth:`get_marginal_ll`.
        batch_size
            Cells encoded and decoded at once; the result depends on it by rounding only.
        return_mean
            Whether to return the mean over draws instead of each.
        return_numpy
            Whether to return an array instead of a data frame; ``None``: where a data frame cannot
            hold the result.
        silent
            Without effect: there is no progress bar.
        dataloader
            Minibatches to use instead of ``adata``: values in [0, 1]; of a model of a data module,
            counts, as the module gives them. The result is an array.
        **more
            Other arguments of scVI's method, for importance weights and for how cells are loaded,
            are refused.

        Returns
        -------
        Cells × genes, float32; ``(n_samples, n_cells, n_genes)`` with ``return_mean=False`` and
        several draws; ``(n_samples_overall, n_genes)`` with ``n_samples_overall``. Genes that the
        cells lack are expected from the others; their names are in the data frame's
        ``attrs["scalex_unmeasured"]``.

        Raises
        ------
        NotImplementedError
            For ``library_size="latent"`` and ``weights="importance"``.
        TypeError
            For other arguments.
        RuntimeError
            If the model is not trained.
        ValueError
            For numbers out of range, an unknown batch or gene, for no cells, or if the record
            cannot be inverted: none, proteins (log-ratios have no total), or values that came
            log-normalized by other means.
        IndexError
            If ``indices`` is neither numbers of cells nor a mask of all.
        """
        _check_sampling(library_size, n_samples, n_samples_overall, weights, more)
        genes = self._gene_indices(gene_list)
        batches = self._decoder_batches(transform_batch)
        to_counts = self._to_counts(genes, float(library_size))
        if dataloader is None:
            adata = self._validate_anndata(adata)
            cells = chosen_cells(indices, adata.n_obs)
            posterior = self._posterior_of_cells(adata, cells, batch_size)
        else:
            posterior = self._posterior_of_minibatches(dataloader)

        def decode(these: Posterior) -> np.ndarray:
            return self._decoded(
                these.draw(), these.codes, genes, batches, to_counts, batch_size or _CELLS_AT_ONCE
            )

        with seeded(None):
            if n_samples_overall is not None:
                chosen = torch.randint(len(posterior), (n_samples_overall,)).numpy()
                return decode(posterior.at(chosen))
            expression = _over_draws(decode, posterior, n_samples, return_mean)
        if return_numpy or adata is None or dataloader is not None or expression.ndim == 3:
            if return_numpy is False:
                logger.warning("A data frame cannot hold this result: an array is returned.")
            return expression
        return self._table(expression, adata, cells, genes)

    def _posterior_of_cells(
        self, adata: Cells, cells: np.ndarray, batch_size: int | None
    ) -> Posterior:
        self._check_if_trained(warn=False)
        mean, var = self.get_latent_representation(
            adata, cells, batch_size=batch_size, return_dist=True
        )
        codes = self.get_from_registry(adata, REGISTRY_KEYS.BATCH_KEY).reshape(-1)[cells]
        return Posterior(mean, var, codes)

    @torch.inference_mode()
    def _posterior_of_minibatches(
        self, dataloader: Iterator[dict[str, Tensor | None]]
    ) -> Posterior:
        self._check_if_trained(warn=False)
        parts = []
        with self._completed_loader(dataloader):
            for tensors in self._prepared(dataloader):
                inputs = self.module._get_inference_input(tensors)
                qz = self.module.inference(**inputs)[MODULE_KEYS.QZ_KEY]
                codes = tensors[REGISTRY_KEYS.BATCH_KEY]
                assert codes is not None, "each cell has a batch"
                parts.append((qz.loc.cpu(), qz.scale.square().cpu(), codes.reshape(-1).cpu()))
        return Posterior(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))

    def _to_counts(
        self, genes: np.ndarray, library_size: float
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Return the way back from values in [0, 1] with their batches to ``library_size``."""
        record = _invertible(self.preprocessing)
        scale, total = self._decoder_scale("log_normalized", genes), record.target_sum
        assert scale is not None and total is not None, "the record is invertible"
        factor = np.float32(library_size / total)

        def to_counts(decoded: np.ndarray, codes: np.ndarray) -> np.ndarray:
            decoded *= scale[codes]
            if record.log1p:
                np.expm1(decoded, out=decoded)
            decoded *= factor
            return decoded

        return to_counts


def _over_draws(
    decode: Callable[[Posterior], np.ndarray],
    posterior: Posterior,
    n_samples: int,
    return_mean: bool,
) -> np.ndarray:
    """Mean over draws, of which one is in memory at a time, or all of several."""
    if n_samples > 1 and not return_mean:
        return np.stack([decode(posterior) for _ in range(n_samples)])
    total = decode(posterior)
    for _ in range(n_samples - 1):
        total += decode(posterior)
    total /= np.float32(n_samples)
    return total


def _check_sampling(
    library_size: float | str,
    n_samples: int,
    n_samples_overall: int | None,
    weights: str | None,
    more: dict[str, Any],
) -> None:
    if more:
        msg = (
            f"`get_normalized_expression` takes no {list(more)!r}: SCALEX has no importance "
            "weights, and reads cells by blocks (`batch_size`)."
        )
        raise TypeError(msg)
    if library_size == "latent":
        refuse("library size in its latent", "a number, for example `library_size=1e4`")
    if isinstance(library_size, str) or not 0 < library_size < np.inf:
        msg = f"`library_size` must be a positive number, got {library_size!r}."
        raise ValueError(msg)
    if weights == "importance":
        refuse("likelihood, which importance weights need", "`weights='uniform'`")
    if weights not in (None, "uniform"):
        msg = f"`weights` must be None or 'uniform', got {weights!r}."
        raise ValueError(msg)
    for name, value in (("n_samples", n_samples), ("n_samples_overall", n_samples_overall)):
        if value is not None:
            check_whole(value, 1, name=name)
    if n_samples_overall is not None and n_samples != 1:
        msg = f"Give `n_samples` ({n_samples!r}) or `n_samples_overall`, not both."
        raise ValueError(msg)


def _invertible(record: Preprocessing | None) -> Preprocessing:
    """Return the record, or raise if it does not lead back to shares of counts."""
    if record is None:
        reason = "The model does not know how its values were prepared"
    elif record.target_sum is None:
        reason = f"Values of profile {record.profile!r} are log-ratios, which have no total"
    elif record.log_normalized:
        reason = "The model's cells came log-normalized, and to which total is not known"
    else:
        return record
    msg = (
        f"{reason}: there is no normalized expression. `get_imputed_expression` decodes in the "
        "units of the model; for this method, set the model up with raw counts."
    )
    raise ValueError(msg)

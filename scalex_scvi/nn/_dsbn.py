"""Domain-specific batch normalization over stacked parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._normalize import Statistics, minibatch_moments, normalize


class DomainSpecificBatchNorm1d(nn.Module):
    """One :class:`torch.nn.BatchNorm1d` per domain, held in stacked tensors.

    Equal to a list of ``BatchNorm1d``, each fed with the rows of its own domain, but without a
    loop over domains, without a device synchronization and with shapes that depend on the
    input's shape alone, so that it compiles to one graph. The cost grows with
    ``min(n_cells, n_domains)``.

    A domain with a single row in a training minibatch has no variance: it is normalized with
    its running statistics, which it leaves untouched.

    Several processes that train one model take the statistics over the rows of all of them, where
    :func:`~scalex_scvi.nn.synchronize_statistics` says so; the cost then grows with ``n_domains``.

    Parameters
    ----------
    n_features
        Number of features (genes).
    n_domains
        Number of domains (batches).
    eps
        Added to the variance.
    momentum
        Weight of a minibatch in the running statistics.

    Attributes
    ----------
    weight, bias, running_mean, running_var
        Tensors of shape ``(n_domains, n_features)``.
    n_frozen
        The first ``n_frozen`` domains are frozen (see :meth:`freeze_domains`).
    synchronize
        Whether training statistics are over all processes.

    References
    ----------
    Chang et al., Domain-Specific Batch Normalization for Unsupervised Domain Adaptation,
    CVPR 2019; Xiong et al., Nat Commun 13:6118, 2022.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    synchronize: bool = False

    def __init__(
        self, n_features: int, n_domains: int, *, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        if n_features < 1 or n_domains < 1:
            msg = (
                "`n_features` and `n_domains` must be at least 1, "
                f"got {n_features!r} and {n_domains!r}."
            )
            raise ValueError(msg)
        self.n_features = n_features
        self.n_domains = n_domains
        self.eps = eps
        self.momentum = momentum
        self.n_frozen = 0
        self.weight = nn.Parameter(torch.ones(n_domains, n_features))
        self.bias = nn.Parameter(torch.zeros(n_domains, n_features))
        self.register_buffer("running_mean", torch.zeros(n_domains, n_features))
        self.register_buffer("running_var", torch.ones(n_domains, n_features))

    def extra_repr(self) -> str:
        """Sizes, for ``print(module)``."""
        return f"{self.n_features}, n_domains={self.n_domains}, n_frozen={self.n_frozen}"

    def freeze_domains(self, n_frozen: int) -> None:
        """Freeze the first ``n_frozen`` domains: no gradient, fixed running statistics.

        Their rows are always normalized with the running statistics, in train mode too.

        Parameters
        ----------
        n_frozen
            Number of domains, from the first, that training must leave bit for bit as they are
            (provided that the optimizer has no weight decay).
        """
        self.n_frozen = n_frozen
        for parameter in (self.weight, self.bias):
            parameter.register_hook(self._drop_frozen_gradient)

    def _drop_frozen_gradient(self, gradient: Tensor) -> Tensor:
        rows = torch.arange(self.n_domains, device=gradient.device)[:, None]
        return gradient * (rows >= self.n_frozen)

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """Normalize each row with the statistics of its domain.

        Parameters
        ----------
        x
            Input of shape ``(n_cells, n_features)``.
        domain
            Domain of each row, integers in ``[0, n_domains)`` of shape ``(n_cells,)`` or
            ``(n_cells, 1)``.

        Returns
        -------
        Tensor of shape ``(n_cells, n_features)``.
        """
        # Statistics in half precision are useless: leave an enclosing autocast.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
            return self._normalize(x, domain.reshape(-1).long())

    def _normalize(self, x: Tensor, domain: Tensor) -> Tensor:
        synchronize = self.training and self.synchronize
        # Over processes a segment must mean the same domain everywhere, present here or not.
        n_segments = self.n_domains if synchronize else min(len(domain), self.n_domains)
        rows, segment_domain = _segments(domain, self.n_domains, n_segments, x.dtype)
        statistics = Statistics(
            self._of_segments(self.running_mean, segment_domain),
            self._of_segments(self.running_var, segment_domain),
            share=x.new_zeros(n_segments, 1),
        )
        if self.training:
            statistics = self._minibatch_statistics(x, rows, segment_domain, statistics)
        weight = self._of_segments(self.weight, segment_domain)
        bias = self._of_segments(self.bias, segment_domain)
        return normalize(x, rows, statistics, weight, bias, eps=self.eps, synchronize=synchronize)

    def _of_segments(self, of_domains: Tensor, segment_domain: Tensor) -> Tensor:
        full = len(segment_domain) == self.n_domains
        return of_domains if full else F.embedding(segment_domain, of_domains)

    @torch.no_grad()
    def _minibatch_statistics(
        self, x: Tensor, rows: Tensor, segment_domain: Tensor, running: Statistics
    ) -> Statistics:
        """Statistics of each segment's own rows; updates the running ones on the way.

        A segment with less than two rows, or a frozen one, has the running ones.
        """
        count, mean, var = minibatch_moments(x, rows, synchronize=self.synchronize)
        usable = (count > 1) & (segment_domain[:, None] >= self.n_frozen)
        statistics = Statistics(
            torch.where(usable, mean, running.mean),
            torch.where(usable, var, running.var),
            share=torch.where(usable, 1 / count, running.share),
        )
        unbiased = statistics.var * torch.where(usable, count / (count - 1), 1)
        self._move_running(self.running_mean, statistics.mean, rows, segment_domain)
        self._move_running(self.running_var, unbiased, rows, segment_domain)
        return statistics

    def _move_running(
        self, running: Tensor, value: Tensor, rows: Tensor, segment_domain: Tensor
    ) -> None:
        """Move the running statistics towards the minibatch's; equal ones stay bit for bit."""
        if len(segment_domain) == self.n_domains:
            running.lerp_(value, self.momentum)
        else:
            moved = torch.lerp(running[segment_domain], value, self.momentum)
            # Rows of one domain carry the same value, so that repeated indices agree.
            running.index_copy_(0, segment_domain, rows @ moved)


def _segments(
    domain: Tensor, n_domains: int, n_segments: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Assign the rows of a minibatch to segments, one for each domain or one for each row.

    Returns the one-hot matrix ``(n_cells, n_segments)`` and the domain of each segment. As many
    segments as domains: segment = domain. As many as rows, which are fewer then: segment = the
    first row of the same domain, so that the work does not grow with the number of absent domains.
    """
    if n_segments == n_domains:
        return F.one_hot(domain, n_domains).to(dtype), torch.arange(n_domains, device=domain.device)
    first_row = (domain[:, None] == domain[None, :]).to(torch.uint8).argmax(dim=1)
    return F.one_hot(first_row, n_segments).to(dtype), domain

"""Compiled loop that lays out a graph as UMAP does. Imported only where many cells are laid out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import boolean, float32, int32, int64, types, uint32, uint64, void
from scipy import sparse

from scalex_scvi._core.compiled import compiled

N_NEGATIVE = 5
"""Cells at random that a cell is moved away from, for each neighbor that it is moved to: umap's."""

MOST = np.float32(4.0)
"""Largest change of a coordinate by one cell, before the learning rate: umap's."""

SMALLEST, LARGEST = -20, 16
"""Powers of two between which squared distances have forces of their own."""

STEPS = 8
"""Each of these powers of two is divided into 2 to this power steps of equal force: of 0.4 %."""

_DROPPED = 23 - STEPS
_FIRST = (127 + SMALLEST) << STEPS
_N_FORCES = (LARGEST - SMALLEST) << STEPS
_BITS = 0xFFFFFFFF


def lay_out(
    graph: sparse.csr_matrix,
    start: np.ndarray,
    *,
    curve: tuple[float, float],
    epochs: int,
    seed: int,
    stop: np.ndarray,
) -> np.ndarray:
    """Lay out a graph by the steps of ``umap.layouts.optimize_layout_euclidean``, in a third of it.

    Edges, cells at random, learning rate and forces are those of UMAP, one after the other on one
    core. The powers that the forces need take most of its time: here they are looked up, in steps
    of 0.4 % of the squared distance. The same seed gives the same positions.

    Parameters
    ----------
    graph
        Symmetric weights, cells × cells.
    start
        Positions to start at, cells × 2.
    curve
        ``a`` and ``b`` of UMAP's curve, 1 / (1 + a d^2b).
    epochs
        How often the strongest edges are taken; others in proportion to their weights.
    seed
        Seed of the cells at random.
    stop
        One boolean. Once it is true, no further steps are taken.

    Returns
    -------
    Positions, cells × 2, float32.
    """
    weights = (graph.data / graph.data.max()).astype(np.float32)
    edges = weights, graph.indices.astype(np.int32), graph.indptr.astype(np.int64)
    positions = np.array(start, dtype=np.float32, order="C")
    rng = np.random.default_rng(seed)
    states = rng.integers(1, 2**32, size=len(positions), dtype=np.uint32)
    # Not a line of Python until the end: another thread may hold the interpreter's lock for long.
    _all_epochs(positions, edges, states, _forces(*curve), epochs, stop)
    return positions


def _forces(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Return forces toward a neighbor and from others, for each step of squared distances."""
    bits = (_FIRST + np.arange(_N_FORCES + 1)) << _DROPPED
    ends = bits.astype(np.int32).view(np.float32).astype(np.float64)
    squared = (ends[1:] + ends[:-1]) / 2
    near = 1 + a * squared**b
    to = -2 * a * b * squared ** (b - 1) / near
    away = 2 * b / ((0.001 + squared) * near)
    return to.astype(np.float32), away.astype(np.float32)


def _read(kind: types.Type) -> types.Array:
    return types.Array(kind, 1, "C", readonly=True)


_STATE = (
    float32[:, ::1],
    types.Tuple((_read(float32), _read(int32), _read(int64))),
    uint32[::1],
    types.UniTuple(_read(float32), 2),
)
"""Types of positions, edges, states of the cells at random, and forces."""


@compiled(int64(float32), fastmath=True)
def _step(squared: Any) -> Any:
    """Where the force at a squared distance is."""
    step = (np.float32(squared).view(np.int32) >> _DROPPED) - _FIRST
    return min(max(step, 0), _N_FORCES - 1)


@compiled(float32(float32), fastmath=True)
def _bounded(value: Any) -> Any:
    return min(max(value, -MOST), MOST)


@compiled(uint64(uint64))
def _next(state: Any) -> Any:
    """Draw a number of 32 bits (xorshift)."""
    state = (state ^ (state << uint64(13))) & uint64(_BITS)
    state = state ^ (state >> uint64(17))
    return (state ^ (state << uint64(5))) & uint64(_BITS)


@compiled(void(*_STATE, float32, int64), fastmath=True)
def _one_epoch(
    positions: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray, np.ndarray],
    states: np.ndarray,
    forces: tuple[np.ndarray, np.ndarray],
    rate: np.float32,
    epoch: int,
) -> None:
    """Move both ends of edges toward each other, and the first one away from cells at random.

    An edge is taken in the epochs in which its weight times the epochs begins a new whole number.
    """
    weights, ends, indptr = edges
    to, away = forces
    before, now = float32(epoch), float32(epoch + 1)
    n_cells = len(positions)
    for cell in range(n_cells):
        x, y = positions[cell]
        state = uint64(states[cell])
        for edge in range(indptr[cell], indptr[cell + 1]):
            if int32(weights[edge] * now) == int32(weights[edge] * before):
                continue
            other = ends[edge]
            dx, dy = x - positions[other, 0], y - positions[other, 1]
            squared = dx * dx + dy * dy
            if squared > 0:
                force = to[_step(squared)]
                dx, dy = rate * _bounded(force * dx), rate * _bounded(force * dy)
                x, y = x + dx, y + dy
                positions[other, 0] -= dx
                positions[other, 1] -= dy
            for _ in range(N_NEGATIVE):
                state = _next(state)
                other = int64((state * uint64(n_cells)) >> uint64(32))
                dx, dy = x - positions[other, 0], y - positions[other, 1]
                squared = dx * dx + dy * dy
                if squared > 0:
                    force = away[_step(squared)]
                    x += rate * _bounded(force * dx)
                    y += rate * _bounded(force * dy)
        positions[cell, 0], positions[cell, 1] = x, y
        states[cell] = uint32(state)


@compiled(void(*_STATE, int64, boolean[::1]))
def _all_epochs(
    positions: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray, np.ndarray],
    states: np.ndarray,
    forces: tuple[np.ndarray, np.ndarray],
    epochs: int,
    stop: np.ndarray,
) -> None:
    """Take the steps of each epoch, at a rate that falls to zero."""
    for epoch in range(epochs):
        if stop[0]:
            break
        _one_epoch(positions, edges, states, forces, float32(1 - epoch / epochs), epoch)

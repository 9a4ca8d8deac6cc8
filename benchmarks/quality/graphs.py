"""The scores that a graph of neighbors allows, for methods that give no embedding."""

from __future__ import annotations

import numpy as np
from scib_metrics import graph_connectivity, nmi_ari_cluster_labels_leiden
from scib_metrics.nearest_neighbors import NeighborsResults
from scipy import sparse


def score_graph(distances: sparse.csr_matrix, labels: np.ndarray) -> dict[str, float]:
    """Score by NMI and ARI of Leiden clusters at the best resolution, and graph connectivity.

    By scib-metrics, as for the embeddings, but over the neighbors of the graph.
    """
    neighbors = _with_self(distances)
    clusters = nmi_ari_cluster_labels_leiden(neighbors, labels)
    return {
        "Leiden NMI": clusters["nmi"],
        "Leiden ARI": clusters["ari"],
        "Graph connectivity": graph_connectivity(neighbors, labels),
    }


def _with_self(distances: sparse.csr_matrix) -> NeighborsResults:
    """Put the cell itself first, then its neighbors by distance; the same number for each cell."""
    rows = [distances[[i]] for i in range(distances.shape[0])]
    width = min(row.nnz for row in rows)
    indices = np.empty((len(rows), width + 1), np.int64)
    lengths = np.zeros((len(rows), width + 1))
    for i, row in enumerate(rows):
        nearest = np.argsort(row.data, kind="stable")[:width]
        indices[i] = [i, *row.indices[nearest]]
        lengths[i, 1:] = row.data[nearest]
    return NeighborsResults(indices=indices, distances=lengths)

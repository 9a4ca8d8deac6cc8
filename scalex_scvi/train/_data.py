"""Loading minibatches from every kind of matrix, in the order that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import rich.pretty  # noqa: F401  scvi-tools 1.4.2 uses it in view_anndata_setup, unimported
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data._anntorchdataset import AnnTorchDataset
from torch.utils.data import Dataset, Subset

from scalex_scvi._core.matrices import by_rows


class SCALEXDataManager(AnnDataManager):
    """scvi-tools' data manager, whose data sets keep the order of cells in backed mode."""

    def create_torch_dataset(
        self,
        indices: Any = None,
        data_and_attributes: Any = None,
        load_sparse_tensor: bool = False,
    ) -> Dataset:
        """Create the data set of this manager's AnnData.

        Parameters
        ----------
        indices
            Cells to include, all of them by default.
        data_and_attributes
            Registry keys to load, all of them by default.
        load_sparse_tensor
            Whether to load sparse matrices as sparse tensors.
        """
        dataset = OrderedAnnTorchDataset(
            self, getitem_tensors=data_and_attributes, load_sparse_tensor=load_sparse_tensor
        )
        return dataset if indices is None else Subset(dataset, indices)


class OrderedAnnTorchDataset(AnnTorchDataset):
    """scvi-tools' data set with the cells in the order of the indices, and fast for CSC.

    scvi-tools sorts the indices of backed data, and returns the rows in sorted order.
    """

    @property
    def data(self) -> dict[str, Any]:
        """Data by registry key, made for taking rows once, in copies of our own."""
        if not hasattr(self, "_data"):
            self._data = {key: by_rows(value) for key, value in super().data.items()}
        return self._data

    def __getitem__(self, indexes: Any) -> dict[str, Any]:
        """Rows of all registered data in the order of ``indexes``."""
        if not self.adata_manager.adata.isbacked or isinstance(indexes, slice):
            return super().__getitem__(indexes)
        order, inverse = np.unique(np.atleast_1d(indexes), return_inverse=True)
        rows = super().__getitem__(order)
        return {key: value[inverse] for key, value in rows.items()}


def share_of_nonzero(manager: AnnDataManager, n_cells: int = 64) -> float:
    """Share of the expression that is not zero, over cells spread evenly over the data.

    Parameters
    ----------
    manager
        A model's ``adata_manager``.
    n_cells
        Cells to look at: a minibatch, so that it costs nothing on disk either.
    """
    blocks = list(cells_all_over(manager, n_cells))
    n_values = sum(block.size for block in blocks)
    return sum(np.count_nonzero(block) for block in blocks) / max(n_values, 1)


def cells_all_over(
    manager: AnnDataManager, n_cells: int, at_a_time: int = 512
) -> Iterator[np.ndarray]:
    """Expression of cells spread evenly over the data, dense, in blocks of ``at_a_time``."""
    dataset = manager.create_torch_dataset(data_and_attributes=[REGISTRY_KEYS.X_KEY])
    n_all = manager.adata.n_obs
    cells = np.linspace(0, n_all - 1, min(n_cells, n_all)).round().astype(int)
    for start in range(0, len(cells), at_a_time):
        yield np.asarray(dataset[cells[start : start + at_a_time]][REGISTRY_KEYS.X_KEY])

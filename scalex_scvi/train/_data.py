"""The data manager and the data set: registered counts are transformed as cells are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField
from torch.utils.data import Dataset, Subset

from scalex_scvi._core.blocks import LocalBlocks, blocks_of, evenly_spread
from scalex_scvi._core.csr_on_disk import fast_codecs_of
from scalex_scvi._core.gene_names import names_in
from scalex_scvi._core.matrices import by_rows, in_memory, is_lazy
from scalex_scvi._core.measured import measured_genes
from scalex_scvi._core.modalities import annotated, one_modality, owner_of
from scalex_scvi._core.reading import reading
from scalex_scvi._core.scvi_private import (
    DATA_REGISTRY_KEY,
    FIELD_REGISTRIES_KEY,
    SETUP_ARGS_KEY,
    STATE_REGISTRY_KEY,
    AnnTorchDataset,
    check_if_view,
    get_anndata_attribute,
    scipy_to_torch_sparse,
)
from scalex_scvi.pp import DeviceRows, Transform, on_device

TransformOf = Callable[["SCALEXDataManager"], "Transform | None"]


_UNKNOWN = object()

MANY_VALUES, SOME_CELLS = 10_000, 10
"""Values of a sparse matrix, and cells of a dense one, that tell whether it still holds counts."""


class SCALEXDataManager(AnnDataManager):
    """scvi-tools' data manager, whose expression goes through a transform as it is read.

    Of a MuData, ``adata`` is the whole, which gets nothing but scvi-tools' marks in ``uns``. What
    is registered of its cells is kept here, and the matrix stays in its modality, :attr:`owner`.

    Attributes
    ----------
    transform_of
        Returns the transform of the registered counts, ``None`` where they need none.
    held_values
        Values in [0, 1] of all cells, while :meth:`transformed_once` holds them in memory.
    on_device
        The same on a GPU, while it holds them there.
    """

    transform_of: TransformOf | None = None
    held_values: sparse.csr_matrix | None = None
    on_device: DeviceRows | None = None
    _transform: Any = None
    _registered: AnnData | None = None
    _genes: pd.Index | None = None
    _held_counts: bool = False
    _places: dict[str, dict[str, Any]] | None = None
    _data_registry: Any = None

    def transfer_fields(self, adata_target: Any, **kwargs: Any) -> AnnDataManager:
        """Register other cells in the same way; their batches may be new."""
        kwargs = {"extend_categories": True} | kwargs
        manager = super().transfer_fields(adata_target, **kwargs)
        manager.transform_of = self.transform_of
        return manager

    @property
    def data_registry(self) -> Any:
        """Where registered data lies, as scvi-tools has it, which makes it anew at each look."""
        fields = self.registry[FIELD_REGISTRIES_KEY]
        places = {key: dict(of[DATA_REGISTRY_KEY]) for key, of in fields.items()}
        if places != self._places:
            self._places, self._data_registry = places, super().data_registry
        return self._data_registry

    def state_of(self, registry_key: str) -> Mapping[str, Any]:
        """Return what ``get_state_registry`` does, without its copy of every name of a gene."""
        return self.registry[FIELD_REGISTRIES_KEY][registry_key][STATE_REGISTRY_KEY]

    @property
    def measured(self) -> np.ndarray:
        """Mask of the model's genes that the cells came with."""
        if self.transform is not None:
            return self.transform.measured
        genes = pd.Index(self.state_of(REGISTRY_KEYS.X_KEY)[LayerField.COLUMN_NAMES_KEY])
        names = names_in(self.owner.var, genes)[0]
        marked = measured_genes(self.owner.var)
        found = genes.isin(names if marked is None else names[marked])
        return found if found.any() else np.ones(len(genes), dtype=bool)

    @property
    def transform(self) -> Transform | None:
        """From the registered counts to values in [0, 1]; ``None`` where they are already."""
        if self._transform is _UNKNOWN:
            self._transform = None if self.transform_of is None else self.transform_of(self)
        return self._transform

    def register_fields(self, adata: Any, *args: Any, **kwargs: Any) -> None:
        """Register cells; what was known of others is forgotten."""
        self._transform = _UNKNOWN
        self._registered = None
        if isinstance(adata, AnnData):
            super().register_fields(adata, *args, **kwargs)
        else:
            self._register_modality(adata, *args, **kwargs)
        self._genes = self.owner.var_names
        self._held_counts = _are_counts(self.get_from_registry(REGISTRY_KEYS.X_KEY)) is True

    def _register_modality(self, mdata: Any, *args: Any, **kwargs: Any) -> None:
        if mdata.is_view:
            check_if_view(mdata)
        cells = one_modality(mdata, self.registry[SETUP_ARGS_KEY])
        super().register_fields(cells, *args, **kwargs)
        self._registered = AnnData(obs=cells.obs, uns=cells.uns)
        self.adata = mdata
        self._assign_uuid()
        self._assign_most_recent_manager_uuid()

    def validate(self) -> None:
        """Register the cells again if another manager has since, and see that counts are there.

        Raises
        ------
        ValueError
            If the matrix held counts when it was registered, and does not any more, or has other
            genes.
        """
        self._check_genes()
        super().validate()
        if not self._held_counts or self.transform is None:
            return
        if _are_counts(self.get_from_registry(REGISTRY_KEYS.X_KEY)) is False:
            where = self.data_registry[REGISTRY_KEYS.X_KEY]
            name = "X" if where.attr_name == "X" else f"layers[{where.attr_key!r}]"
            msg = (
                f"{name} held counts when the model was given these cells, and now holds values "
                "that are not whole numbers: it was normalized in place since, by "
                "`scanpy.pp.log1p` for example. The model needs the counts: put them back, or "
                "keep them in a layer and register that, `adata.layers['counts'] = "
                "adata.X.copy()` and `layer='counts'`, before `adata.X` is normalized."
            )
            raise ValueError(msg)

    def _check_genes(self) -> None:
        """Raise if the matrix has other columns than when it was registered; names may change."""
        then, now = self._genes, self.owner.var_names
        if then is None or now.equals(then):
            return
        if len(now) != len(then):
            what = f"{len(then)} genes when the model was given these cells, and has {len(now)} now"
        elif set(now) == set(then):
            what = "its genes in another order when the model was given these cells"
        else:
            return
        msg = (
            f"The AnnData had {what}: it was changed in place since, by `scanpy.pp.filter_genes` "
            "for example. The model needs the genes that it was given: make changes in a copy, "
            "`other = adata.copy()`, or before `setup_anndata`."
        )
        raise ValueError(msg)

    @property
    def owner(self) -> AnnData:
        """The AnnData that the matrix lies in: ``adata``, or one modality of it."""
        return owner_of(self.adata, self.registry[SETUP_ARGS_KEY])

    @property
    def annotated(self) -> AnnData:
        """What has ``obs``, ``obsm`` and ``uns`` of the cells: ``adata``, or those of a MuData."""
        return annotated(self.adata, self.registry[SETUP_ARGS_KEY])

    def get_from_registry(self, registry_key: str) -> Any:
        """Return registered data, the expression as it is now.

        Raises
        ------
        ValueError
            If a column of the registration was removed since.
        """
        where = self.data_registry[registry_key]
        if self._registered is None:
            if where.attr_name == "obs" and where.attr_key not in self.adata.obs:
                msg = (
                    f"adata.obs[{where.attr_key!r}] is gone: columns that begin with '_scvi' are "
                    "of the registration of these cells, which the model needs. Register them "
                    "again, with the same arguments: `SCALEXModel.setup_anndata(adata, …)`."
                )
                raise ValueError(msg)
            return super().get_from_registry(registry_key)
        is_matrix = where.attr_name in ("X", "layers")
        place = self.owner if is_matrix else self._registered
        return get_anndata_attribute(place, where.attr_name, where.attr_key)

    @property
    def codes(self) -> np.ndarray:
        """Batch of each cell."""
        return self.get_from_registry(REGISTRY_KEYS.BATCH_KEY).reshape(-1)

    @contextmanager
    def transformed_once(self, device: torch.device | None = None) -> Iterator[None]:
        """Hold the values while the block runs, for data that is in memory.

        A training reads each cell some hundred times: to transform it each time would take as
        long as a third of the iterations.

        Parameters
        ----------
        device
            Where the training runs. A GPU holds the values itself, if they take at most half of
            its free memory.
        """
        matrix = self.get_from_registry(REGISTRY_KEYS.X_KEY)
        transform = self.transform
        if in_memory(matrix) and device is not None and _fits(matrix, device):
            take = on_device(transform, device)
            cells = LocalBlocks(by_rows(matrix), self.codes, np.arange(matrix.shape[0]))
            self.on_device = DeviceRows.stack([take(*block) for block in cells])
        elif in_memory(matrix) and transform is not None:
            blocks = blocks_of(matrix, self.codes)
            self.held_values = blocks.collect(transform, n_columns=transform.shape[1])
        try:
            yield
        finally:
            self.held_values = self.on_device = None

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
        dataset = TransformedDataset(
            self, getitem_tensors=data_and_attributes, load_sparse_tensor=load_sparse_tensor
        )
        return dataset if indices is None else Subset(dataset, indices)


class TransformedDataset(AnnTorchDataset):
    """scvi-tools' data set with values in [0, 1], cells in the order of the indices, fast for CSC.

    scvi-tools sorts the indices of backed data, and returns the rows in sorted order.
    """

    adata_manager: SCALEXDataManager

    @property
    def data(self) -> dict[str, Any]:
        """Data by registry key, made for taking rows once, in copies of our own."""
        if not hasattr(self, "_data"):
            self._data = {key: by_rows(value) for key, value in super().data.items()}
        return self._data

    def __getitem__(self, indexes: Any) -> dict[str, Any]:
        """Rows of all registered data in the order of ``indexes``."""
        rows = _row_numbers(indexes, len(self))
        inverse = None
        if self.adata_manager.owner.isbacked or (np.diff(rows) < 0).any():
            # Files want ascending rows; so do many others, to be fast.
            rows, inverse = np.unique(rows, return_inverse=True)
        found = {}
        for key, dtype in self.keys_and_dtypes.items():
            if isinstance(self.data[key], str):  # the kind of minification
                continue
            values = self._expression(rows) if key == REGISTRY_KEYS.X_KEY else self._take(key, rows)
            values = values if inverse is None else values[inverse]
            values = values.astype(dtype, copy=False)
            if sparse.issparse(values):
                as_is = self.load_sparse_tensor
                values = scipy_to_torch_sparse(values) if as_is else values.toarray()
            found[key] = values
        return found

    def _take(self, key: str, rows: np.ndarray) -> Any:
        data = self.data[key]
        with reading(data), fast_codecs_of(data):
            return self._taken(data, rows)

    @staticmethod
    def _taken(data: Any, rows: np.ndarray) -> Any:
        taken = data.iloc[rows].to_numpy() if isinstance(data, pd.DataFrame) else data[rows]
        return taken.compute() if is_lazy(taken) else taken

    def _expression(self, rows: np.ndarray) -> Any:
        transform, held = self.adata_manager.transform, self.adata_manager.held_values
        if transform is not None and held is not None:
            return held[rows]
        counts = self._take(REGISTRY_KEYS.X_KEY, rows)
        return counts if transform is None else transform(counts, self.adata_manager.codes[rows])


def _are_counts(matrix: Any) -> bool | None:
    """Whether the first values of a matrix in memory are whole numbers; ``None``: none to see."""
    if not in_memory(matrix):
        return None  # nobody changes it in place
    some = matrix.data[:MANY_VALUES] if sparse.issparse(matrix) else np.asarray(matrix[:SOME_CELLS])
    return bool((some == np.rint(some)).all()) if some.any() else None


def _row_numbers(indexes: Any, n_cells: int) -> np.ndarray:
    """Numbers of the rows that an index means, as NumPy takes it, in time by the rows alone.

    Parameters
    ----------
    indexes
        A number, a slice, numbers (negative ones count from the end), or a mask of all cells.
    n_cells
        Number of cells.

    Raises
    ------
    IndexError
        If it is none of these, or a cell is not there.
    """
    if isinstance(indexes, slice):
        return np.arange(*indexes.indices(n_cells))
    given = np.atleast_1d(indexes)
    if given.dtype == bool and given.shape == (n_cells,):
        return np.flatnonzero(given)
    is_empty = given.size == 0 and given.ndim == 1  # of any type: [] is one of float
    if not is_empty and (given.ndim != 1 or given.dtype.kind not in "iu"):
        msg = (
            f"Cells are taken by number, slice, numbers or a mask of all {n_cells}: got an array "
            f"of {given.dtype} of the shape {given.shape!r}."
        )
        raise IndexError(msg)
    rows = given.astype(np.intp)
    absent = (rows < -n_cells) | (rows >= n_cells)
    if absent.any():
        msg = f"There is no cell {int(rows[absent][0])!r}: there are {n_cells}, counted from 0."
        raise IndexError(msg)
    return np.where(rows < 0, rows + n_cells, rows)


def _fits(matrix: Any, device: torch.device) -> bool:
    """Whether the values of a matrix, 8 bytes each, fit into half of the free memory of a GPU."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    n_values = matrix.nnz if sparse.issparse(matrix) else np.count_nonzero(matrix)
    return 8 * n_values <= free // 2


def share_of_nonzero(manager: AnnDataManager, n_cells: int = 64) -> float:
    """Share of the expression that is not zero, over cells spread evenly over the data.

    Parameters
    ----------
    manager
        A model's ``adata_manager``.
    n_cells
        Cells to look at: a minibatch, so that it costs nothing on disk either.

    Returns
    -------
    In [0, 1].
    """
    blocks = list(cells_all_over(manager, n_cells))
    n_values = sum(block.size for block in blocks)
    return sum(np.count_nonzero(block) for block in blocks) / max(n_values, 1)


def cells_all_over(
    manager: AnnDataManager, n_cells: int, at_a_time: int = 512
) -> Iterator[np.ndarray]:
    """Yield the expression of cells that are spread evenly over the data, block by block.

    Parameters
    ----------
    manager
        A model's ``adata_manager``.
    n_cells
        Number of cells, at most all.
    at_a_time
        Cells of a block.

    Yields
    ------
    Cells × genes, dense, in [0, 1].
    """
    dataset = manager.create_torch_dataset(data_and_attributes=[REGISTRY_KEYS.X_KEY])
    cells = evenly_spread(manager.adata.n_obs, n_cells)
    for start in range(0, len(cells), at_a_time):
        yield np.asarray(dataset[cells[start : start + at_a_time]][REGISTRY_KEYS.X_KEY])

"""Every documented format is read exactly; all damage is one error that names the file."""

from __future__ import annotations

import builtins
import gzip
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.io import mmwrite

from scalex_scvi.io import concat, read, read_file, read_files, read_mtx

BARCODES = [f"{code}TTGACCA-1" for code in ("AAACA", "AAACC", "AAACG", "AAACT", "AAAGA", "AAAGC")]


@pytest.fixture
def small() -> AnnData:
    """Six cells × four genes, with a column of zeros and a gene called NA."""
    counts = np.array(
        [[0, 3, 0, 1], [5, 0, 0, 0], [1, 1, 0, 2], [0, 0, 0, 7], [300, 0, 0, 1], [0, 2, 0, 9]]
    )
    return AnnData(
        X=sparse.csr_matrix(counts, dtype=np.float32),
        obs=pd.DataFrame({"donor": list("aabbab")}, index=BARCODES),
        var=pd.DataFrame(index=["CD3D", "NA", "MS4A1", "LYZ"]),
    )


def renamed(adata: AnnData, suffix: str) -> AnnData:
    """The same cells under other names."""
    other = adata.copy()
    other.obs_names = [f"{name}_{suffix}" for name in adata.obs_names]
    return other


def write_text(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def write_matrix(path: Path, matrix: sparse.spmatrix) -> None:
    plain = path.parent / "temporary.mtx"
    mmwrite(plain, sparse.coo_matrix(matrix.astype(int)))
    content = plain.read_bytes()
    plain.unlink()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_folder(
    adata: AnnData,
    folder: Path,
    *,
    matrix: str = "matrix.mtx",
    barcodes: str = "barcodes.tsv",
    features: str = "genes.tsv",
    columns: int = 2,
    cells_in_rows: bool = False,
) -> Path:
    """Write a MatrixMarket folder with 1 (symbols), 2 (and ids) or 3 (and types) columns."""
    folder.mkdir(exist_ok=True)
    write_matrix(folder / matrix, adata.X if cells_in_rows else adata.X.T)
    write_text(folder / barcodes, "".join(f"{name}\n" for name in adata.obs_names))
    rows = [
        [f"ENSG{i}", name, "Gene Expression"][:columns] if columns > 1 else [name]
        for i, name in enumerate(adata.var_names)
    ]
    write_text(folder / features, "".join("\t".join(row) + "\n" for row in rows))
    return folder


def write_10x_h5(adata: AnnData, path: Path) -> Path:
    """Write the layout of Cell Ranger 3."""
    by_cell = adata.X.tocsr()
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(adata.obs_names, dtype="S")
        matrix["data"] = by_cell.data.astype(np.int32)
        matrix["indices"] = by_cell.indices.astype(np.int64)
        matrix["indptr"] = by_cell.indptr.astype(np.int64)
        matrix["shape"] = np.array([adata.n_vars, adata.n_obs], dtype=np.int32)
        features = matrix.create_group("features")
        features["id"] = np.array([f"ENSG{i}" for i in range(adata.n_vars)], dtype="S")
        features["name"] = np.array(adata.var_names, dtype="S")
        types = ["Gene Expression"] * (adata.n_vars - 1) + ["Antibody Capture"]
        features["feature_type"] = np.array(types, dtype="S")
        features["genome"] = np.array(["GRCh38"] * adata.n_vars, dtype="S")
    return path


def write_legacy_10x_h5(adata: AnnData, path: Path) -> Path:
    """Write the layout of Cell Ranger 2."""
    by_cell = adata.X.tocsr()
    with h5py.File(path, "w") as file:
        genome = file.create_group("GRCh38")
        genome["barcodes"] = np.array(adata.obs_names, dtype="S")
        genome["data"] = by_cell.data.astype(np.int32)
        genome["indices"] = by_cell.indices.astype(np.int64)
        genome["indptr"] = by_cell.indptr.astype(np.int64)
        genome["shape"] = np.array([adata.n_vars, adata.n_obs], dtype=np.int32)
        genome["genes"] = np.array([f"ENSG{i}" for i in range(adata.n_vars)], dtype="S")
        genome["gene_names"] = np.array(adata.var_names, dtype="S")
    return path


def write_loom(adata: AnnData, path: Path, cells: str = "CellID", genes: str = "Gene") -> Path:
    # anndata 0.13 cannot write .loom through loompy 3.0.8.
    loompy = pytest.importorskip("loompy")
    loompy.create(
        str(path),
        adata.X.T.tocoo(),
        {genes: adata.var_names.to_numpy().astype(object)},
        {cells: adata.obs_names.to_numpy().astype(object)},
    )
    return path


def write_h5mu(adata: AnnData, path: Path) -> Path:
    import mudata

    atac = adata[:, :2].copy()
    atac.var_names = ["chr1:1-2", "chr1:5-9"]
    mudata.MuData({"rna": adata.copy(), "atac": atac}).write_h5mu(path)
    return path


def write_zarr(adata: AnnData, path: Path) -> Path:
    adata.copy().write_zarr(path)
    return path


def write_h5ad(adata: AnnData, path: Path) -> Path:
    adata.copy().write_h5ad(path)
    return path


def write_table(adata: AnnData, path: Path, *, cells_in: str = "columns", style: str = "") -> Path:
    """Write as pandas does, or as R's write.table (``R``: header one field shorter)."""
    frame = adata.to_df().astype(int)
    frame = frame.T if cells_in == "columns" else frame
    separator = "," if ".csv" in path.name else " " if "spaces" in style else "\t"
    text = frame.to_csv(sep=separator, lineterminator="\n")
    if "R" in style:
        text = text.removeprefix(separator)
    return write_text(path, text)


FORMATS: dict[str, Callable[[AnnData, Path], Path | str]] = {
    "h5ad": lambda a, d: write_h5ad(a, d / "a.h5ad"),
    "h5mu": lambda a, d: f"{write_h5mu(a, d / 'a.h5mu')}/rna",
    "10x h5": lambda a, d: write_10x_h5(a, d / "a.h5"),
    "10x h5 of Cell Ranger 2": lambda a, d: write_legacy_10x_h5(a, d / "a.h5"),
    "zarr": lambda a, d: write_zarr(a, d / "a.zarr"),
    "zarr without suffix": lambda a, d: write_zarr(a, d / "store"),
    "loom": lambda a, d: write_loom(a, d / "a.loom"),
    "loom named by anndata": lambda a, d: write_loom(a, d / "a.loom", "obs_names", "var_names"),
    "csv": lambda a, d: write_table(a, d / "a.csv"),
    "csv.gz": lambda a, d: write_table(a, d / "a.csv.gz"),
    "csv, cells in rows": lambda a, d: write_table(a, d / "a.csv", cells_in="rows"),
    "tsv": lambda a, d: write_table(a, d / "a.tsv"),
    "txt.gz": lambda a, d: write_table(a, d / "a.txt.gz"),
    "txt, spaces": lambda a, d: write_table(a, d / "a.txt", style="R, spaces"),
    "txt of R, cells in rows": lambda a, d: write_table(a, d / "a.txt", cells_in="rows", style="R"),
    "mtx folder, Cell Ranger 2": lambda a, d: write_folder(a, d / "a"),
    "mtx folder, Cell Ranger 3": lambda a, d: write_folder(
        a,
        d / "a",
        matrix="matrix.mtx.gz",
        barcodes="barcodes.tsv.gz",
        features="features.tsv.gz",
        columns=3,
    ),
    "mtx folder, documented names": lambda a, d: write_folder(
        a, d / "a", matrix="count.mtx", barcodes="barcode.txt", features="feature.txt", columns=1
    ),
    "mtx folder of kallisto": lambda a, d: write_folder(
        a,
        d / "a",
        matrix="cells_x_genes.mtx",
        barcodes="cells_x_genes.barcodes.txt",
        features="cells_x_genes.genes.txt",
        columns=1,
        cells_in_rows=True,
    ),
    "mtx file": lambda a, d: write_folder(a, d / "a") / "matrix.mtx",
    "mtx.gz file with prefix": lambda a, d: (
        write_folder(
            a,
            d / "a",
            matrix="GSM1_matrix.mtx.gz",
            barcodes="GSM1_barcodes.tsv.gz",
            features="GSM1_genes.tsv",
        )
        / "GSM1_matrix.mtx.gz"
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_back_exactly(name: str, small: AnnData, tmp_path: Path) -> None:
    source = FORMATS[name](small, tmp_path)
    adata = read(source)
    assert sparse.issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.toarray(), small.X.toarray())
    assert list(adata.obs_names) == list(small.obs_names)
    assert list(adata.var_names) == list(small.var_names)
    # What was read can be written.
    adata.write_h5ad(tmp_path / "again.h5ad")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_beside_an_anndata(name: str, small: AnnData, tmp_path: Path) -> None:
    """Gene names of the other source turn tables that nothing else could turn."""
    unremarkable = small.copy()
    unremarkable.obs_names = [f"cell{i}" for i in range(6)]
    source = FORMATS[name](unremarkable, tmp_path)
    before = small.copy()
    both = read([source, small], batch_categories=["file", "object"])
    np.testing.assert_array_equal(both.X.toarray(), np.vstack([small.X.toarray()] * 2))
    assert list(both.obs["batch"]) == ["file"] * 6 + ["object"] * 6
    pd.testing.assert_frame_equal(small.obs, before.obs)
    pd.testing.assert_frame_equal(small.var, before.var)
    assert (small.X != before.X).nnz == 0


def test_ids_types_and_repeated_symbols(
    small: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small.var_names = ["CD3D", "CD3D", "MS4A1", "CD3D"]
    folder = write_folder(
        small, tmp_path / "a", features="features.tsv", columns=3, matrix="matrix.mtx.gz"
    )
    for source in (folder, write_10x_h5(small, tmp_path / "a.h5")):
        caplog.clear()
        adata = read(source)
        assert list(adata.var_names) == ["CD3D", "CD3D-1", "MS4A1", "CD3D-2"]
        assert list(adata.var["gene_ids"]) == ["ENSG0", "ENSG1", "ENSG2", "ENSG3"]
        assert adata.var["feature_types"].iloc[0] == "Gene Expression"
        assert "2 gene names repeat" in caplog.text
    # All types of features are kept, and reported.
    assert "Antibody Capture" in caplog.text
    # An AnnData keeps its names: they may be used elsewhere.
    assert not read(write_h5ad(small, tmp_path / "a.h5ad")).var_names.is_unique


@pytest.mark.parametrize("name", ["peaks.bed", "peaks.bed.gz", "features.tsv"])
def test_peaks_are_named_by_place(name: str, small: AnnData, tmp_path: Path) -> None:
    folder = write_folder(small, tmp_path / "a")
    (folder / "genes.tsv").unlink()
    write_text(folder / name, "".join(f"chr1\t{i}00\t{i}50\n" for i in range(1, 5)))
    peaks = ["chr1:100-150", "chr1:200-250", "chr1:300-350", "chr1:400-450"]
    assert list(read_mtx(folder).var_names) == peaks


def test_matrix_of_equal_sides_is_genes_by_cells(small: AnnData, tmp_path: Path) -> None:
    square = small[:4].copy()
    adata = read_mtx(write_folder(square, tmp_path / "a"))
    np.testing.assert_array_equal(adata.X.toarray(), square.X.toarray())


def test_several_samples_in_one_folder(small: AnnData, tmp_path: Path) -> None:
    folder = tmp_path / "geo"
    for i in (1, 2):
        sample = renamed(small[: i + 2].copy(), str(i))
        write_folder(
            sample,
            folder,
            matrix=f"GSM{i}_matrix.mtx",
            barcodes=f"GSM{i}_barcodes.tsv",
            features="shared_genes.tsv",
        )
    with pytest.raises(ValueError, match=r"geo' holds several matrices.*GSM1_matrix.mtx"):
        read(folder)
    together = read(folder / "*.mtx")
    assert together.shape == (7, 4)
    assert list(together.obs["sub_batch"].cat.categories) == ["GSM1_matrix.mtx", "GSM2_matrix.mtx"]
    # Barcodes of another sample are never taken.
    (folder / "GSM2_barcodes.tsv").unlink()
    with pytest.raises(ValueError, match=r"GSM2_matrix.mtx' lacks a file.*barcode"):
        read(folder / "GSM2_matrix.mtx")


@pytest.mark.parametrize("cells_in", ["rows", "columns"])
def test_orientation_of_tables(
    cells_in: str, small: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small.obs_names = [f"cell{i}" for i in range(6)]
    path = write_table(small, tmp_path / "a.txt", cells_in=cells_in, style="R")
    told = read_file(path, cells_in=cells_in)
    np.testing.assert_array_equal(told.X.toarray(), small.X.toarray())
    assert not caplog.records
    # Alone and with plain names: as in the published package, with a warning.
    assert list(read_file(path).obs_names) == list(
        small.obs_names if cells_in == "columns" else small.var_names
    )
    assert "nothing tells which axis" in caplog.text
    # Two tables that share names on one axis only.
    other = write_table(renamed(small, "b"), tmp_path / "b.csv", cells_in=cells_in)
    caplog.clear()
    assert list(read([path, other]).var_names) == list(small.var_names)
    assert "nothing tells" not in caplog.text


def test_tables_with_ensembl_ids(small: AnnData, tmp_path: Path) -> None:
    small.obs_names = [f"cell{i}" for i in range(6)]
    small.var_names = [f"ENSG0000012345{i}" for i in range(4)]
    path = write_table(small, tmp_path / "a.csv", cells_in="rows")
    assert list(read_file(path).var_names) == list(small.var_names)


def test_large_tables_are_read_in_blocks(
    small: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_table(small, tmp_path / "a.csv")
    monkeypatch.setattr("scalex_scvi.io._tables._CHUNK_VALUES", 7)
    np.testing.assert_array_equal(read(path).X.toarray(), small.X.toarray())


def test_main_matrix_of_a_velocyto_loom(small: AnnData, tmp_path: Path) -> None:
    path = write_loom(small, tmp_path / "a.loom")
    import loompy

    with loompy.connect(str(path)) as file:
        file.layers["spliced"] = np.zeros(file.shape)
    adata = read(path)
    np.testing.assert_array_equal(adata.X.toarray(), small.X.toarray())
    assert adata.layers["spliced"].sum() == 0


def half(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def emptied(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def folder_with(adata: AnnData, folder: Path, name: str, change: Callable[[Path], object]) -> Path:
    folder = write_folder(adata, folder)
    change(folder / name)
    return folder


def transposed(adata: AnnData) -> AnnData:
    return AnnData(adata.X.T.tocsr(), obs=adata.var.copy(), var=adata.obs[[]].copy())


def without_chunks(adata: AnnData, path: Path, array: str) -> Path:
    write_zarr(adata, path)
    files = [file for file in (path / array).rglob("*") if file.is_file()]
    for file in files:
        if file.name not in (".zarray", ".zattrs", "zarr.json"):
            file.unlink()
    return path


def no_cells(adata: AnnData, path: Path) -> Path:
    return write_h5ad(adata[:0].copy(), path)


def bad_indices(adata: AnnData, path: Path) -> Path:
    write_10x_h5(adata, path)
    with h5py.File(path, "r+") as file:
        file["matrix/indices"][0] = 99
    return path


def without_barcodes(adata: AnnData, path: Path) -> Path:
    write_10x_h5(adata, path)
    with h5py.File(path, "r+") as file:
        del file["matrix/features"]
    return path


def missing_name(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def no_text(path: Path, byte: int) -> Path:
    """Put a byte of no text into the last number, as flipped bits do."""
    path.write_bytes(path.read_bytes().rstrip() + bytes([byte]))
    return path


HEADER = "gene,AAACATTGACCA,AAACCTTGACCA\n"
DAMAGE: dict[str, tuple[Callable[[AnnData, Path], Path | str], str]] = {
    "h5ad cut in half": (lambda a, d: half(write_h5ad(a, d / "x.h5ad")), "cannot be read as .h5ad"),
    "h5ad of no bytes": (lambda a, d: emptied(d / "x.h5ad"), "cannot be read as .h5ad"),
    "h5ad of no cells": (lambda a, d: no_cells(a, d / "x.h5ad"), "is empty: 0 cells"),
    "10x h5 cut in half": (lambda a, d: half(write_10x_h5(a, d / "x.h5")), "cannot be read as 10x"),
    "10x h5 of no cells": (lambda a, d: write_10x_h5(a[:0], d / "x.h5"), "is empty: 0 cells"),
    "10x h5, column index too large": (lambda a, d: bad_indices(a, d / "x.h5"), "cannot be read"),
    "10x h5 without features": (lambda a, d: without_barcodes(a, d / "x.h5"), "cannot be read"),
    "h5 with an AnnData": (lambda a, d: write_h5ad(a, d / "x.h5"), "holds no 10x matrix but .h5ad"),
    "h5 of another kind": (
        lambda a, d: write_h5mu(a, d / "y.h5mu").rename(d / "x.h5"),
        "holds no 10x matrix but .h5mu",
    ),
    "h5 of another kind still": (
        lambda a, d: write_loom(a, d / "y.loom").rename(d / "x.h5"),
        "is not a 10x .h5 file: no group with 'barcodes'",
    ),
    "h5mu cut in half": (
        lambda a, d: f"{half(write_h5mu(a, d / 'x.h5mu'))}/rna",
        "cannot be read as .h5mu",
    ),
    "h5mu without modality": (
        lambda a, d: write_h5mu(a, d / "x.h5mu"),
        r"names no modality. It holds .*x.h5mu/rna'",
    ),
    "h5mu, unknown modality": (
        lambda a, d: f"{write_h5mu(a, d / 'x.h5mu')}/rnx",
        r"has no modality 'rnx'. It holds .*'rna'",
    ),
    "loom cut in half": (lambda a, d: half(write_loom(a, d / "x.loom")), "cannot be read as .loom"),
    "loom without names": (
        lambda a, d: write_loom(a, d / "x.loom", "number", "Gene"),
        r"no cell names.*'number'",
    ),
    "zarr without values": (lambda a, d: without_chunks(a, d / "x.zarr", "X/data"), "incomplete"),
    "zarr without begins of rows": (
        lambda a, d: without_chunks(a, d / "x.zarr", "X/indptr"),
        "'X/indptr' does not fit the values",
    ),
    "zarr without names": (
        lambda a, d: without_chunks(a, d / "x.zarr", "var/_index"),
        "incomplete",
    ),
    "zarr, empty folder": (lambda a, d: (d / "x.zarr").mkdir() or d / "x.zarr", "cannot be read"),
    "zarr, a file": (lambda a, d: write_text(d / "x.zarr", "no store"), "cannot be read as zarr"),
    "csv of no bytes": (lambda a, d: emptied(d / "x.csv"), "is empty"),
    "csv of a header only": (lambda a, d: write_text(d / "x.csv", HEADER), "is empty"),
    "csv cut in half": (
        lambda a, d: half(write_table(a, d / "x.csv", cells_in="rows")),
        "has no value",
    ),
    "csv.gz cut in half": (lambda a, d: half(write_table(a, d / "x.csv.gz")), "cannot be read"),
    "csv.gz that is not gzipped": (
        lambda a, d: write_table(a, d / "x.csv").rename(d / "x.csv.gz"),
        "cannot be read",
    ),
    "csv without header": (lambda a, d: write_text(d / "x.csv", "g,1,0\nh,2,0\n"), "has no header"),
    "csv of numbers only": (lambda a, d: write_text(d / "x.csv", "1,2\n3,4\n"), "has no header"),
    "csv without row names": (
        lambda a, d: write_text(d / "x.csv", "a,b,c\n3,4,0\n0,0,1\n"),
        "no names in its first column",
    ),
    "csv with text": (
        lambda a, d: write_text(d / "x.csv", HEADER + "g,1,0\nh,2,many\n"),
        "'many' in row 'h', column 'AAACCTTGACCA' is not a number",
    ),
    "csv with a missing value": (
        lambda a, d: write_text(d / "x.csv", HEADER + "g,,0\nh,2,1\n"),
        "row 'g', column 'AAACATTGACCA' has no value",
    ),
    "csv with NA": (lambda a, d: write_text(d / "x.csv", HEADER + "g,NA,0\n"), "'NA' in row 'g'"),
    "csv with nan": (lambda a, d: write_text(d / "x.csv", HEADER + "g,nan,0\n"), "'nan' in row"),
    "csv with a long row": (
        lambda a, d: write_text(d / "x.csv", HEADER + "g,1,0\nh,1,1,1\n"),
        "cannot be read as a table",
    ),
    "csv of one column": (
        lambda a, d: write_text(d / "x.csv", "gene\ng\nh\n"),
        "one column only: no comma",
    ),
    "csv of text only": (
        lambda a, d: write_text(d / "x.csv", "gene,a,b\ng,x,y\n"),
        "no column of numbers",
    ),
    "csv with a short header": (
        lambda a, d: write_text(d / "x.csv", "a,b\ng,1,2,3\n"),
        "2 fields in its header but 4",
    ),
    "txt that is not text": (
        lambda a, d: write_h5ad(a, d / "x.h5ad").rename(d / "x.txt"),
        "cannot be read as a table|is empty",
    ),
    "mtx cut in half": (
        lambda a, d: folder_with(a, d / "x", "matrix.mtx", half) / "matrix.mtx",
        "cannot be read as MatrixMarket",
    ),
    "mtx with a byte beyond ASCII": (
        lambda a, d: no_text(write_folder(a, d / "a") / "matrix.mtx", 0x80).parent,
        "cannot be read as MatrixMarket: it holds bytes that are no text",
    ),
    "mtx with a zero byte": (
        lambda a, d: no_text(write_folder(a, d / "a") / "matrix.mtx", 0).parent,
        "cannot be read as MatrixMarket: it holds bytes that are no text",
    ),
    "mtx of no bytes": (
        lambda a, d: folder_with(a, d / "x", "matrix.mtx", emptied),
        "matrix.mtx' cannot be read as MatrixMarket",
    ),
    "mtx folder, no barcode in the file": (
        lambda a, d: folder_with(a, d / "x", "barcodes.tsv", emptied),
        "barcodes.tsv' cannot be read",
    ),
    "mtx folder, one gene too few": (
        lambda a, d: folder_with(a, d / "x", "genes.tsv", missing_name),
        "is 4 × 6, but there are 3 features and 6 barcodes",
    ),
    "mtx folder without barcodes": (
        lambda a, d: folder_with(a, d / "x", "barcodes.tsv", Path.unlink),
        r"lacks a file beside it with 'barcode' in its name.*'genes.tsv'",
    ),
    "mtx folder with two lists of genes": (
        lambda a, d: folder_with(
            a, d / "x", "genes.tsv", lambda p: shutil.copy(p, p.parent / "features.tsv")
        ),
        r"several files with 'feature', 'gene', 'peak'",
    ),
    "folder without matrix": (
        lambda a, d: folder_with(a, d / "x", "matrix.mtx", Path.unlink),
        "folder without a MatrixMarket file",
    ),
    "unknown ending": (lambda a, d: write_text(d / "x.rds", "x"), "unknown format. Allowed are"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_error_that_names_the_file(kind: str, small: AnnData, tmp_path: Path) -> None:
    make, message = DAMAGE[kind]
    source = make(small, tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read(source)
    assert "x" + "".join(Path(str(source).removesuffix("/rna")).suffixes[:1]) in str(caught.value)
    assert "\n" not in str(caught.value)
    # The same in a list: never skipped.
    with pytest.raises(ValueError, match=message):
        read([small, source])


@pytest.mark.parametrize(
    "source", ["x.h5ad", "x.h5mu/rna", "x.zarr", "x.csv.gz", "x.mtx", "folder", "*.h5ad", "none/*"]
)
def test_absent_files(source: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file '"):
        read(tmp_path / source)


@pytest.mark.parametrize("join", ["inner", "outer"])
@pytest.mark.parametrize("name", ["h5ad", "mtx folder, Cell Ranger 2", "object"])
def test_transposed_among_others(name: str, join: str, small: AnnData, tmp_path: Path) -> None:
    turned = transposed(renamed(small, "b"))
    source = turned if name == "object" else FORMATS[name](turned, tmp_path)
    with pytest.raises(ValueError, match="Source 'b' has genes of source 'a' as names of its cell"):
        read([small, source], batch_categories=["a", "b"], join=join)


def test_mixture_of_everything(small: AnnData, tmp_path: Path) -> None:
    """A folder, an object, a table and a pattern: four batches, one column of files."""
    parts = [renamed(small, letter) for letter in "abcde"]
    folder = write_folder(parts[0], tmp_path / "mtx")
    table = write_table(parts[2], tmp_path / "c.txt", cells_in="rows", style="R")
    (tmp_path / "more").mkdir()
    write_table(parts[4], tmp_path / "more" / "e.csv.gz")
    write_h5ad(parts[3], tmp_path / "more" / "d.h5ad")
    together = read([folder, parts[1], str(table), tmp_path / "more" / "*"])
    assert together.shape == (30, 4)
    assert list(together.obs["batch"]) == ["0"] * 6 + ["1"] * 6 + ["2"] * 6 + ["3"] * 12
    assert list(together.obs["sub_batch"][18:]) == ["d.h5ad"] * 6 + ["e.csv.gz"] * 6
    assert together.obs["sub_batch"][:18].isna().all()
    expected = np.vstack([small.X.toarray()] * 5)
    wanted = [gene for part in parts for gene in part.obs_names]
    assert list(together.obs_names) == wanted
    np.testing.assert_array_equal(together[:, small.var_names].X.toarray(), expected)


def test_a_pattern_is_one_source(small: AnnData, tmp_path: Path) -> None:
    for letter in "ba":
        write_h5mu(renamed(small, letter), tmp_path / f"{letter}.h5mu")
    for pattern in (f"{tmp_path}/*.h5mu/rna", tmp_path / "[ab].h5mu/rna"):
        adata = read_files(pattern)
        assert "batch" not in adata.obs
        assert adata.n_obs == 12
        assert list(adata.obs_names[:6]) == [f"{code}_a" for code in BARCODES]
    # The same file names in different folders are told apart.
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_h5ad(renamed(small, folder), tmp_path / folder / "x.h5ad")
    adata = read(f"{tmp_path}/*/x.h5ad")
    assert list(adata.obs["sub_batch"].cat.categories) == ["one/x.h5ad", "two/x.h5ad"]
    # A name with brackets is a name if there is such a file.
    assert read(write_h5ad(small, tmp_path / "[1].h5ad")).n_obs == 6


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_outer_join_adds_zeros(
    dense: bool, small: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = small[:, :3].copy(), renamed(small, "b")[:, 1:].copy()
    one.layers["counts"] = one.X.copy()
    two.obsm["X_pca"] = np.ones((6, 2))
    if dense:
        one.X, two.X = one.X.toarray(), two.X.toarray()
    with caplog.at_level(logging.INFO, logger="scalex_scvi"):
        both = read([one, two], join="outer")
    assert sparse.issparse(both.X)
    assert list(both.var_names) == sorted(small.var_names)
    expected = np.vstack([small.X.toarray()] * 2)
    expected[:6, 3] = 0
    expected[6:, 0] = 0
    np.testing.assert_array_equal(both[:, small.var_names].X.toarray(), expected)
    assert both.X.nnz == np.count_nonzero(expected)
    assert "4 genes, 2 of them in all sources" in caplog.text
    # No values are invented for what only one source has.
    assert not both.obsm
    assert "counts" not in both.layers
    assert sparse.issparse(one.X) is not dense
    assert read([one, two]).n_vars == 2


def test_outer_join_needs_a_link(small: AnnData) -> None:
    other = small.copy()
    other.var_names = [name.lower() for name in small.var_names]
    with pytest.raises(ValueError, match=r"no gene in common.*'cd3d'"):
        read([small, small, other], join="outer")
    with pytest.raises(ValueError, match="`join` 'left' must be"):
        read([small, other], join="left")


def test_embeddings_of_different_width_are_left_out(small: AnnData) -> None:
    one, two = small.copy(), renamed(small, "b")
    one.obsm["X_pca"], two.obsm["X_pca"] = np.ones((6, 3)), np.ones((6, 2))
    one.obsm["X_umap"] = two.obsm["X_umap"] = np.ones((6, 2))
    assert list(read([one, two]).obsm) == ["X_umap"]


def test_concat_writes_whole_or_not_at_all(
    small: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "all.h5ad"
    one, two = small.copy(), renamed(small, "b")
    two.obs["doublet"] = [True, False] * 3
    two.obs["kind"] = pd.Categorical(list("xxyyzz"))
    both = concat([one, two], ["A", "B"], "outer", "tech", "_", path)
    saved = ad.read_h5ad(path)
    assert list(saved.obs["tech"].cat.categories) == ["A", "B"]
    assert saved.obs_names[0] == f"{BARCODES[0]}_A"
    assert list(saved.obs_names) == list(both.obs_names)
    assert list(saved.obs["doublet"].dropna().astype(bool)) == [True, False] * 3
    assert list(saved.obs["kind"].dropna()) == list("xxyyzz")

    def fail(*args: object, **kwargs: object) -> None:
        msg = "disk full"
        raise OSError(msg)

    before = path.read_bytes()
    monkeypatch.setattr(AnnData, "write_h5ad", fail)
    with pytest.raises(OSError, match="disk full"):
        concat([one, two], save=path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"must end in .h5ad"):
        concat([one, two], save=tmp_path / "all.csv")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (["T", "B"], [1.5, None]),
        (pd.Categorical(["T", "B"]), [0, 1]),
        (pd.Categorical([0, 1]), pd.Categorical(["T", "B"])),
        ([True, False], ["yes", "no"]),
    ],
    ids=["text, numbers", "categories, numbers", "categories of two kinds", "truth, text"],
)
def test_columns_of_two_kinds_can_be_written(
    one: object, two: object, small: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Clusters are often names in one file and numbers in another."""
    first, second = small[:2].copy(), small[2:4].copy()
    first.obs["cluster"], second.obs["cluster"] = one, two
    concat([first, second], save=tmp_path / "a.h5ad")
    saved = ad.read_h5ad(tmp_path / "a.h5ad").obs["cluster"]
    expected = [str(value) for value in [*one, *two] if value is not None]
    assert list(saved.dropna()) == expected
    assert "obs['cluster'] holds values of several kinds" in caplog.text
    assert list(first.obs["cluster"]) == list(one)


def test_what_a_file_cannot_hold_is_converted_and_said(
    small: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = small[:2].copy(), small[2:4].copy()
    for part in (first, second):
        part.obs["day"] = pd.to_datetime(["2020-01-01", "2020-01-02"])
        part.obs["nothing"] = None
        part.obs[5] = [0.5, 1.5]
    concat([first, second], save=tmp_path / "a.h5ad")
    saved = ad.read_h5ad(tmp_path / "a.h5ad").obs
    assert list(saved["day"]) == ["2020-01-01", "2020-01-02"] * 2
    assert saved["nothing"].isna().all()
    assert list(saved["5"]) == [0.5, 1.5] * 2
    assert "obs['day'] (datetime64) is text" in caplog.text
    assert first.obs["day"].dtype.kind == "M"


def test_concat_of_one_object_leaves_it_alone(small: AnnData, tmp_path: Path) -> None:
    kind = small.obs["donor"].dtype
    assert concat(small, save=tmp_path / "a.h5ad") is small
    assert small.obs["donor"].dtype == kind
    assert read(tmp_path / "a.h5ad").n_obs == 6


def test_batch_column_is_replaced_with_a_note(
    small: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    small.obs["batch"] = "old"
    with caplog.at_level(logging.INFO, logger="scalex_scvi"):
        assert read(small) is small
        assert "replaced" not in caplog.text
        assert set(read([small, renamed(small, "b")]).obs["batch"]) == {"0", "1"}
    assert "obs['batch'] is replaced" in caplog.text
    assert set(small.obs["batch"]) == {"old"}


def test_repeated_names(small: AnnData) -> None:
    repeated = small.copy()
    repeated.var_names = ["CD3D", "CD3D", "MS4A1", "LYZ"]
    with pytest.raises(ValueError, match=r"Source '1' has 1 gene names that repeat.*'CD3D'"):
        read([small, repeated])
    cells = small.copy()
    cells.obs_names = ["same"] * 6
    assert read([small, cells]).obs_names.is_unique
    with pytest.raises(ValueError, match="Source '1' is empty"):
        read([small, small[:0]])


def test_backed(small: AnnData, tmp_path: Path) -> None:
    path = write_h5ad(small, tmp_path / "a.h5ad")
    for adata in (read(path, backed=True), read_file(path, backed=True)):
        assert adata.isbacked
        assert read(adata, backed=True) is adata
        # In a list it is read: concatenation is in memory.
        assert read([adata, renamed(small, "b")]).shape == (12, 4)
        adata.file.close()
    table = write_table(small, tmp_path / "a.csv")
    for sources in ([path, path], table, small, [path, table]):
        with pytest.raises(ValueError, match="`backed=True` is for one .h5ad file"):
            read(sources, backed=True)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.h5ad", backed=True)


def test_wrong_arguments(small: AnnData, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'DataFrame'; allowed are paths and AnnData"):
        read([small, small.to_df()])
    with pytest.raises(ValueError, match="`cells_in` is for .csv"):
        read_file(write_h5ad(small, tmp_path / "a.h5ad"), cells_in="rows")
    with pytest.raises(ValueError, match="`cells_in` 'up' must be"):
        read_file(write_table(small, tmp_path / "a.csv"), cells_in="up")


def test_loom_without_loompy_names_the_extra(
    small: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.loom"
    path.write_bytes(b"")
    monkeypatch.delitem(sys.modules, "loompy", raising=False)
    original = builtins.__import__

    def without_loompy(name: str, *args: object, **kwargs: object) -> object:
        if name == "loompy":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_loompy)
    with pytest.raises(ImportError, match=r"scalex-scvi\[io\]"):
        read(path)

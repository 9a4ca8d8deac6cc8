"""Files as 10x, kb-python, Parse, BD Rhapsody, featureCounts and GEO lay them out."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.io import mmwrite

import scalex_scvi as sx
from scalex_scvi.io import Reading, load_counts, read, read_file

pytestmark = pytest.mark.usefixtures("narrow")

CELLS = [f"{code}TTGACCA-1" for code in ("AAACA", "AAACC", "AAACG", "AAACT", "AAAGA")]
COUNTS = np.arange(40).reshape(5, 8) % 7 * np.array([1, 0, 1, 1, 0] * 8).reshape(5, 8)
NAMES = ["CD3D", "CD4", "LYZ", "chr1:10-20", "CD4", "CD19", "Hashtag1", "CMO301"]
TYPES = [
    *["Gene Expression"] * 3,
    "Peaks",
    *["Antibody Capture"] * 3,
    "Multiplexing Capture",
]
IDS = ["ENSG00000001", "ENSG00000002", "ENSG00000003", "chr1:10-20", "P1", "P2", "H1", "CMO301"]


def text(path: Path, lines: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines, encoding="utf-8")
    return path


def matrix(path: Path, counts: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    plain = path.parent / "plain.mtx"
    mmwrite(plain, sparse.coo_matrix(counts.astype(int)))
    content = plain.read_text()
    plain.unlink()
    return text(path, content)


def lines(*columns: list[str], separator: str = "\t") -> str:
    return "".join(separator.join(row) + "\n" for row in zip(*columns, strict=True))


def folder_10x(path: Path, names: list[str] = NAMES, ids: list[str] = IDS) -> Path:
    matrix(path / "matrix.mtx.gz", COUNTS.T)
    text(path / "barcodes.tsv.gz", lines(CELLS))
    text(path / "features.tsv.gz", lines(ids, names, TYPES))
    return path


def h5_10x(
    path: Path, names: list[str] = NAMES, genome: list[str] | None = None, types: list[str] = TYPES
) -> Path:
    counts = sparse.csr_matrix(COUNTS)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(CELLS, dtype="S")
        group["data"] = counts.data.astype(np.int32)
        group["indices"], group["indptr"] = counts.indices, counts.indptr
        group["shape"] = np.array(COUNTS.T.shape)
        features = group.create_group("features")
        for key, values in (
            ("id", IDS),
            ("name", names),
            ("feature_type", types),
            ("genome", genome or ["GRCh38"] * 4 + [""] * 4),
        ):
            features[key] = np.array(values, dtype="S")
    return path


OWN = {"RNA": [0, 1, 2], "ATAC": [3], "ADT": [4, 5]}


@pytest.mark.parametrize("profile", OWN)
@pytest.mark.parametrize("kind", ["h5", "mtx", "h5ad", "AnnData"])
def test_a_profile_takes_its_own_features(
    kind: str, profile: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of one file with genes, peaks, antibodies and hashtags."""
    source: Path | AnnData = (
        h5_10x(tmp_path / "a.h5") if kind == "h5" else folder_10x(tmp_path / "a")
    )
    if kind in ("h5ad", "AnnData"):
        source = read(source)
        source.obs["batch"] = "one"
        if kind == "h5ad":
            source.write_h5ad(tmp_path / "a.h5ad")
            source = tmp_path / "a.h5ad"
    adata = read(source, profile=profile)
    own = OWN[profile]
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS[:, own])
    if kind in ("h5", "mtx"):  # an AnnData keeps the names that it has
        assert list(adata.var_names) == [NAMES[i] for i in own]
    assert f"`profile` '{profile}' takes {len(own)} features" in caplog.text
    assert "2 of type 'Multiplexing" not in caplog.text
    assert "1 of type 'Multiplexing Capture' (such as 'CMO301')" in caplog.text
    caplog.clear()
    loaded = load_counts(source, Reading(batch_key="batch"), reference=[], profile=profile)
    np.testing.assert_array_equal(loaded.X.toarray(), COUNTS[:, own])


def test_all_features_without_a_profile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adata = read(folder_10x(tmp_path / "a"))
    assert list(adata.var_names) == [*NAMES[:4], "CD4-1", *NAMES[5:]]
    assert "`profile='RNA'` (or 'ATAC', 'ADT') takes those of one" in caplog.text


def test_a_profile_without_features_is_an_error(tmp_path: Path) -> None:
    path = h5_10x(tmp_path / "a.h5", types=["Gene Expression"] * 8)
    with pytest.raises(ValueError, match=r"a.h5' has no feature of the type 'Antibody Capture'"):
        read(path, profile="ADT")
    with pytest.raises(ValueError, match="`profile` 'protein' is unknown; allowed are"):
        read(path, profile="protein")
    # Proteins in obsm are features of their own.
    adata = read(path)
    adata.obs["batch"] = "one"
    adata.obsm["protein"] = pd.DataFrame(COUNTS[:, :2], index=CELLS, columns=["p1", "p2"])
    loaded = load_counts(adata, Reading(use_layer="protein"), profile="ADT")
    assert list(loaded.var_names) == ["p1", "p2"]
    # No type: nothing is left out.
    del adata.var["feature_types"]
    assert read(adata, profile="ADT") is adata


def test_antibodies_never_enter_an_rna_model(caplog: pytest.LogCaptureFixture) -> None:
    """Also where the user reads the file by other means."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.5, size=(60, 30)).astype(np.float32)
    counts[:, 20:] *= 100
    names = [f"g{i}" for i in range(20)] + [f"p{i}" for i in range(10)]
    types = ["Gene Expression"] * 20 + ["Antibody Capture"] * 10
    both = AnnData(sparse.csr_matrix(counts), var=pd.DataFrame({"feature_types": types}, names))
    both.obs["batch"] = np.repeat(["a", "b"], 30)
    genes = both[:, :20].copy()
    for made, wanted in (
        (sx.pp.rna(both, batch_key="batch", min_features=15), slice(0, 20)),
        (sx.pp.adt(both, batch_key="batch"), slice(20, 30)),
    ):
        assert list(made.var_names) == names[wanted]
    expected = sx.pp.rna(genes, batch_key="batch", min_features=15)
    made = sx.pp.rna(both, batch_key="batch", min_features=15)
    assert list(made.obs_names) == list(expected.obs_names)
    np.testing.assert_array_equal(made.X.toarray(), expected.X.toarray())
    assert "left out are 10 of type 'Antibody Capture' (such as 'p0')" in caplog.text
    with pytest.raises(ValueError, match="no feature of the type 'Peaks'"):
        sx.pp.atac(both, batch_key="batch")
    models = []
    for cells in (both.copy(), genes):
        sx.SCALEXModel.setup_anndata(cells, batch_key="batch")
        models.append(sx.SCALEXModel(cells))
    of_both, of_genes = (model.get_prepared() for model in models)
    assert list(of_both.var_names) == names[:20]
    np.testing.assert_array_equal(of_both.X.toarray(), of_genes.X.toarray())
    query = sx.pp.prepare_query(both, models[1].preprocessing, batch_key="batch")
    np.testing.assert_array_equal(query.X.toarray(), of_genes.X.toarray())


MIXED = ["GRCh38_CD3D", "GRCh38_CD4", "mm10___Cd4", "mm10___Cd19", "CD4", "CD19", "HTO1", "CMO1"]


def test_two_genomes_are_a_choice(tmp_path: Path) -> None:
    genome = ["GRCh38"] * 2 + ["mm10"] * 2 + [""] * 4
    types = ["Gene Expression"] * 4 + TYPES[4:]
    path = h5_10x(tmp_path / "a.h5", MIXED, genome, types)
    with pytest.raises(ValueError, match=r"genomes \{'GRCh38': 2, 'mm10': 2\}: `genome` must"):
        read(path)
    with pytest.raises(ValueError, match=r"`genome` 'hg19' is not among them"):
        read(path, genome="hg19")
    assert read(path, genome="all").shape == (5, 8)
    human = read_file(path, genome="GRCh38", profile="RNA")
    assert list(human.var_names) == ["CD3D", "CD4"]
    np.testing.assert_array_equal(human.X.toarray(), COUNTS[:, :2])
    mouse = load_counts(path, Reading(genome="mm10"), reference=[], profile="RNA")
    assert list(mouse.var_names) == ["Cd4", "Cd19"]
    np.testing.assert_array_equal(mouse.X.toarray(), COUNTS[:, 2:4])
    # Antibodies are of no genome.
    assert list(read(path, genome="mm10", profile="ADT").var_names) == ["CD4", "CD19"]


def test_two_genomes_of_a_folder(tmp_path: Path) -> None:
    ids = ["GRCh38_ENSG001234567", "GRCh38_ENSG001234568", "mm10___ENSMUSG001234", *IDS[3:]]
    folder = folder_10x(tmp_path / "a", MIXED, ids)
    with pytest.raises(ValueError, match="'GRCh38': 2, 'mm10': 1"):
        read(folder)
    assert list(read(folder, genome="GRCh38", profile="RNA").var_names) == ["CD3D", "CD4"]
    # Cell Ranger 2: a folder, or a group, for each genome.
    inner = tmp_path / "v2"
    inner.mkdir()
    folder_10x(inner / "hg19")
    assert read(inner).n_obs == 5
    folder_10x(inner / "mm10")
    with pytest.raises(ValueError, match=r"its folders \['hg19', 'mm10'\] do"):
        read(inner)
    assert read(inner, genome="hg19", profile="RNA").n_vars == 3


def test_two_genomes_of_cell_ranger_2(tmp_path: Path) -> None:
    counts = sparse.csr_matrix(COUNTS[:, :3])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("hg19", "mm10"):
            group = file.create_group(name)
            group["barcodes"] = np.array(CELLS, dtype="S")
            group["data"], group["indices"] = counts.data.astype(np.int32), counts.indices
            group["indptr"], group["shape"] = counts.indptr, np.array([3, 5])
            group["genes"] = np.array(IDS[:3], dtype="S")
            group["gene_names"] = np.array([f"{name}_{gene}" for gene in "ABC"], dtype="S")
    with pytest.raises(ValueError, match=r"holds the genomes \['hg19', 'mm10'\]: `genome` must"):
        read(tmp_path / "a.h5")
    assert list(read(tmp_path / "a.h5", genome="mm10").var_names) == ["A", "B", "C"]


@pytest.mark.parametrize("kind", ["h5", "mtx"])
def test_genes_without_symbol_are_named_by_id(kind: str, tmp_path: Path) -> None:
    names = ["CD3D", "", "NA", "NA", *NAMES[4:]]
    types = ["Gene Expression"] * 8
    path = (
        h5_10x(tmp_path / "a.h5", names, types=types)
        if kind == "h5"
        else folder_10x(tmp_path / "a", names)
    )
    assert list(read(path).var_names[:4]) == ["CD3D", IDS[1], IDS[2], IDS[3]]


GENES = ["CD3D", "CD4", "LYZ", "MS4A1"]
SMALL = COUNTS[:, :4]


def _lines(header: list[str], *rows: list[object], separator: str = "\t") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in [header, *rows])


def feature_counts(path: Path) -> Path:
    header = ["Geneid", "Chr", "Start", "End", "Strand", "Length", *(f"s{i}.bam" for i in range(5))]
    rows = [
        [g, "chr1;chr1", "1;5", "4;9", "+;+", 1000 + i, *SMALL[:, i]] for i, g in enumerate(GENES)
    ]
    return text(path, "# Program:featureCounts v2.0\n" + _lines(header, *rows))


def kb(path: Path, *, square: bool = False, names: bool = True) -> Path:
    n = 4 if square else 5
    matrix(path / "cells_x_genes.mtx", SMALL[:n])
    text(path / "cells_x_genes.barcodes.txt", lines(CELLS[:n]))
    text(path / "cells_x_genes.genes.txt", lines([f"ENSG0000000{i}.2" for i in range(4)]))
    if names:
        text(path / "cells_x_genes.genes.names.txt", "CD3D\n\nLYZ\nMS4A1\n")
    return path


def parse(path: Path) -> Path:
    matrix(path / "DGE.mtx", SMALL[:4])
    genes = [f"ENSG0000000{i}" for i in range(4)]
    text(
        path / "all_genes.csv",
        "gene_id,gene_name,genome\n" + lines(genes, GENES, ["hg38"] * 4, separator=","),
    )
    wells = [f"01_0{i}_02" for i in range(4)]
    text(
        path / "cell_metadata.csv",
        "bc_wells,sample,gene_count\n" + lines(wells, list("aabb"), list("1234"), separator=","),
    )
    return path


def bd(path: Path) -> Path:
    genes = ["CD3D", "CD4", "LYZ", "CD19:SJ25C1|CD19|AHS0030|pAbO"]
    body = _lines(
        ["Cell_Index", *genes],
        *[[100 + i, *SMALL[i]] for i in range(5)],
        separator=",",
    )
    return text(path, "##################\n## BD Rhapsody, 1,2\n#\n" + body)


def expected(adata: AnnData, counts: np.ndarray, genes: list[str], cells: list[str]) -> None:
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    assert list(adata.var_names) == genes
    assert list(adata.obs_names) == cells


def test_feature_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adata = read(feature_counts(tmp_path / "counts.txt"))
    expected(adata, SMALL, GENES, [f"s{i}.bam" for i in range(5)])
    assert list(adata.var["Length"]) == ["1000", "1001", "1002", "1003"]
    assert "['Chr', 'Start', 'End', 'Strand', 'Length'] are text or describe genes" in caplog.text
    assert "nothing tells" not in caplog.text


def test_kb_python(tmp_path: Path) -> None:
    names = ["CD3D", "ENSG00000001.2", "LYZ", "MS4A1"]
    expected(read(kb(tmp_path / "a")), SMALL, names, CELLS)
    # A square matrix is not taken the wrong way round.
    expected(read(kb(tmp_path / "b", square=True)), SMALL[:4], names, CELLS[:4])
    alone = read(kb(tmp_path / "c", names=False))
    assert list(alone.var_names) == [f"ENSG0000000{i}.2" for i in range(4)]


def test_parse(tmp_path: Path) -> None:
    adata = read(parse(tmp_path / "a"))
    expected(adata, SMALL[:4], GENES, [f"01_0{i}_02" for i in range(4)])
    assert list(adata.obs["sample"]) == list("aabb")
    assert list(adata.obs["gene_count"]) == [1, 2, 3, 4]
    two = parse(tmp_path / "b")
    content = (two / "all_genes.csv").read_text()
    text(two / "all_genes.csv", content.replace("CD4,hg38", "Cd4,mm10"))
    with pytest.raises(ValueError, match="'hg38': 3, 'mm10': 1"):
        read(two)
    assert list(read(two, genome="mm10").var_names) == ["Cd4"]


def test_bd_rhapsody(tmp_path: Path) -> None:
    path = bd(tmp_path / "a_RSEC_MolsPerCell.csv")
    genes = [*GENES[:3], "CD19:SJ25C1|CD19|AHS0030|pAbO"]
    expected(read(path), SMALL, genes, [str(100 + i) for i in range(5)])
    expected(read(path, profile="RNA"), SMALL[:, :3], GENES[:3], [str(100 + i) for i in range(5)])


@pytest.mark.parametrize(
    ("name", "separator", "comma"),
    [("a.csv", ";", False), ("a.csv", ";", True), ("a.txt", ",", False), ("a.csv", "\t", False)],
)
def test_separators(name: str, separator: str, comma: bool, tmp_path: Path) -> None:
    values = [[f"{value},5" if comma else value for value in row] for row in SMALL.T]
    rows = [[gene, *row] for gene, row in zip(GENES, values, strict=True)]
    path = text(tmp_path / name, _lines(["", *CELLS], *rows, separator=separator))
    expected(read(path), SMALL + 0.5 * comma, GENES, CELLS)
    # One cell alone: a comma is no separator there.
    path = text(
        tmp_path / name, _lines(["gene", CELLS[0]], *[r[:2] for r in rows], separator=separator)
    )
    expected(read(path), SMALL[:1] + 0.5 * comma, GENES, CELLS[:1])


@pytest.mark.parametrize(
    "names",
    [
        ("GSM1_{}.mtx.gz", "GSM1_{}.tsv.gz"),
        ("{}_GSM1.mtx.gz", "{}_GSM1.tsv.gz"),
        ("GSE7.{}.S1.mtx.gz", "GSE7.{}.S1.csv.gz"),
    ],
)
def test_names_of_geo(names: tuple[str, str], tmp_path: Path) -> None:
    for sample, part in (("1", slice(0, 5)), ("2", slice(0, 3))):
        of_matrix, of_list = (name.replace("1", sample) for name in names)
        source = matrix(tmp_path / of_matrix.format("matrix"), SMALL[part].T)
        text(tmp_path / of_list.format("barcodes"), lines(CELLS[part]))
        text(tmp_path / of_list.format("genes"), lines(GENES))
        expected(read(source), SMALL[part], GENES, CELLS[part])


def test_headers_and_row_numbers_of_lists(tmp_path: Path) -> None:
    """As R's ``write.csv`` leaves them; a first line is a header only if it is one too many."""
    source = matrix(tmp_path / "counts.mtx", SMALL.T)
    text(tmp_path / "cells.csv", '"","x"\n' + lines(list("12345"), CELLS, separator=","))
    text(tmp_path / "genes.csv", '"","x"\n' + lines(list("1234"), GENES, separator=","))
    expected(read(source), SMALL, GENES, CELLS)
    text(tmp_path / "genes.csv", lines([*GENES, "LAST"]))
    with pytest.raises(ValueError, match="there are 5 features and 6 barcodes"):
        read(source)


def test_other_columns_and_lines_of_tables(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # nf-core: a second name; HTSeq: lines that are no genes.
    rows = [[f"ENSG0000000{i}", GENES[i], *SMALL[:, i]] for i in range(4)]
    rows.append(["__no_feature", "", *[9] * 5])
    path = text(tmp_path / "a.tsv", _lines(["gene_id", "gene_name", *"abcde"], *rows))
    adata = read(path)
    expected(adata, SMALL, [f"ENSG0000000{i}" for i in range(4)], list("abcde"))
    assert list(adata.var["gene_name"]) == GENES
    assert "the lines ['__no_feature'] are no genes and left out" in caplog.text
    # Cells in rows, with their types.
    rows = [[f"c{i}", "T cell", *SMALL[i]] for i in range(5)]
    path = text(tmp_path / "b.csv", _lines(["cell", "type", *GENES], *rows, separator=","))
    adata = read(path)
    expected(adata, SMALL, GENES, [f"c{i}" for i in range(5)])
    assert set(adata.obs["type"]) == {"T cell"}
    # A header that is commented out.
    path = text(
        tmp_path / "c.tsv",
        _lines(["#gene", *CELLS], *[[g, *SMALL[:, i]] for i, g in enumerate(GENES)]),
    )
    expected(read(path), SMALL, GENES, CELLS)


def test_orientation_by_common_genes_and_header(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    common = ["ACTB", "GAPDH", "RPL3", "XYZ"]
    rows = [[f"c{i}", *SMALL[i]] for i in range(5)]
    path = text(tmp_path / "a.csv", _lines(["", *common], *rows, separator=","))
    expected(read(path), SMALL, common, [f"c{i}" for i in range(5)])
    assert "nothing tells" not in caplog.text
    # Names and header disagree: said.
    rows = [[cell, *SMALL[i]] for i, cell in enumerate(CELLS)]
    path = text(tmp_path / "b.csv", _lines(["gene", *GENES], *rows, separator=","))
    expected(read(path), SMALL, GENES, CELLS)
    assert "though the header says otherwise" in caplog.text


def test_sizes_that_no_machine_has(tmp_path: Path) -> None:
    """Declared, not there: named before memory is asked for."""
    folder = kb(tmp_path / "a")
    content = (folder / "cells_x_genes.mtx").read_text().replace("5 4 ", "1000000000000 4 ", 1)
    text(folder / "cells_x_genes.mtx", content)
    with pytest.raises(ValueError, match="is 1000000000000 × 4, but there are"):
        read(folder)
    path = tmp_path / "a.h5ad"
    AnnData(np.ones((3, 2), dtype=np.float32)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        data = file.create_dataset("X", shape=(10**12, 2), dtype="f4", chunks=(1000, 2))
        data.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    with pytest.raises((MemoryError, ValueError), match=r"a.h5ad' (does not fit|cannot be read)"):
        read(path)


def test_integrate_a_cite_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From the file to the latent, both of its kinds."""
    rng = np.random.default_rng(1)
    types = ["Gene Expression"] * 12 + ["Antibody Capture"] * 5
    names = [f"G{i}" for i in range(12)] + [f"G{i}" for i in range(5)]
    cells = ["".join(rng.choice(list("ACGT"), 12)) for _ in range(40)]
    matrix(tmp_path / "a" / "matrix.mtx", rng.poisson(3, size=(17, 40)))
    text(tmp_path / "a" / "barcodes.tsv", lines(cells))
    text(tmp_path / "a" / "features.tsv", lines([f"F{i}" for i in range(17)], names, types))
    with caplog.at_level(logging.WARNING):
        for profile, n_features in (("RNA", 12), ("ADT", 5)):
            adata = sx.SCALEX(
                [tmp_path / "a", tmp_path / "a"],
                profile=profile,
                min_features=0,
                min_cells=0,
                max_iteration=2,
                batch_size=20,
                ignore_umap=True,
                progress_bar=False,
            )
            assert list(adata.var_names) == [f"G{i}" for i in range(n_features)]
            assert np.isfinite(adata.obsm["latent"]).all()

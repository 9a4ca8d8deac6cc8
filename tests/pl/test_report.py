"""The report is one file that needs no network, and holds what it draws."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import trained_model
from scipy import sparse

import scalex_scvi as sx
from scalex_scvi.pl import _report_usual

DOCS = Path(__file__).parents[2] / "docs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Parsed(HTMLParser):
    """Links, sources and panels of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.sections: list[str] = []
        self.panels: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [(tag, str(given[key])) for key in ("src", "href") if key in given]
        if tag == "section" and "id" in given:
            self.sections.append(str(given["id"]))
        if "data-panel" in given:
            self.panels.append(str(given["data-panel"]))


@pytest.fixture
def projected(counts: AnnData) -> AnnData:
    rng = np.random.default_rng(0)
    for key in ("X_umap", "X_umap_uncorrected", "X_umap_reference"):
        counts.obsm[key] = rng.normal(size=(150, 2))
    counts.obsm["X_umap_uncorrected"][:5] = np.nan
    counts.obsm["latent"] = rng.normal(size=(150, 5))
    counts.obs["leiden"] = pd.Categorical(["0", "1"] * 75)
    counts.obs["batch"] = pd.Categorical(["a"] * 100 + ["</script>"] * 50)
    counts.obs["projection"] = pd.Categorical(["reference"] * 100 + ["query"] * 50)
    is_query = counts.obs["projection"] == "query"
    labels = counts.obs["celltype"].astype(str).where(is_query)
    labels[is_query & (counts.obs["celltype"] == "type0")] = "unknown"
    counts.obs["celltype_transfer"] = labels.astype("category")
    counts.obs["celltype_p_value"] = np.where(is_query, 0.5, np.nan)
    return counts


@pytest.fixture
def page(projected: AnnData, tmp_path: Path) -> Path:
    return sx.pl.report(
        projected, tmp_path / "report.html", labels_key="celltype", about={"seed": 7}
    )


def numbers(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<u2")


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_nothing_is_loaded_from_elsewhere(page: Path) -> None:
    parsed = Parsed(page.read_text(encoding="utf-8"))
    assert {tag for tag, _ in parsed.links} == {"a"}
    assert all(link.startswith("https://doi.org/") for _, link in parsed.links)


def test_every_panel_has_its_cells(page: Path, projected: AnnData) -> None:
    text = page.read_text(encoding="utf-8")
    data = data_of(text)
    assert Parsed(text).panels == [panel["id"] for panel in data["panels"]]
    assert len(data["panels"]) == 7
    for panel in data["panels"]:
        assert len(numbers(data["maps"][panel["map"]])) == 300
        assert len(numbers(data["columns"][panel["column"]]["codes"])) == 150
    column = data["columns"]["transfer"]
    names = np.array(column["names"])[numbers(column["codes"])]
    is_query = (projected.obs["projection"] == "query").to_numpy()
    assert list(names[is_query]) == list(projected.obs["celltype_transfer"][is_query])
    assert list(names[~is_query]) == list(projected.obs["celltype"][~is_query])
    places = numbers(data["maps"]["X_umap"]).reshape(-1, 2)
    points = projected.obsm["X_umap"]
    scaled = (points - points.min(axis=0)) / np.ptp(points, axis=0) * 65534
    np.testing.assert_allclose(places, scaled, atol=1)
    assert (numbers(data["maps"]["X_umap_uncorrected"])[:10] == 65535).all()


def test_clusters_are_numbered_where_their_cells_are(page: Path, projected: AnnData) -> None:
    data = data_of(page.read_text(encoding="utf-8"))
    assert set(data["middles"]) == set(data["maps"])
    for key, middles in data["middles"].items():
        places = numbers(data["maps"][key]).reshape(-1, 2).astype(float)
        places[(places == 65535).any(axis=1)] = np.nan
        for name in ("0", "1"):
            of_cluster = places[(projected.obs["leiden"] == name).to_numpy()]
            np.testing.assert_allclose(middles[name], np.nanmedian(of_cluster, axis=0))


def test_clusters_may_be_numbers(page: Path, projected: AnnData, tmp_path: Path) -> None:
    """They are fractions once cells without one are added."""
    projected.obs["leiden"] = projected.obs["leiden"].astype(float)
    numbers = sx.pl.report(
        projected, tmp_path / "numbers.html", labels_key="celltype", about={"seed": 7}
    )
    found, expected = (data_of(path.read_text(encoding="utf-8")) for path in (numbers, page))
    assert found["columns"]["clusters"]["names"] == ["0", "1"]
    assert found == expected
    projected.obs.loc[projected.obs_names[:60], "leiden"] = np.nan
    sx.pl.report(projected, tmp_path / "numbers.html", labels_key="celltype")


def test_names_of_cells_may_repeat(page: Path, projected: AnnData, tmp_path: Path) -> None:
    projected.obs_names = [f"cell{i % 20}" for i in range(projected.n_obs)]
    repeated = sx.pl.report(
        projected, tmp_path / "repeated.html", labels_key="celltype", about={"seed": 7}
    )
    assert repeated.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")


def markers_of(text: str) -> list[str]:
    """Names above the dots."""
    dots = re.search(r'<svg[^>]*aria-label="Marker dot plot".*?</svg>', text)
    assert dots is not None
    return re.findall(r"rotate[^>]*>([^<]*)</text>", dots[0])


def test_names_of_genes_may_repeat(projected: AnnData, tmp_path: Path) -> None:
    once = sx.pl.report(projected, tmp_path / "once.html", labels_key="celltype")
    named = {name: f"g{number % 20}" for number, name in enumerate(projected.var_names)}
    projected.var_names = list(named.values())
    repeated = sx.pl.report(projected, tmp_path / "repeated.html", labels_key="celltype")
    found, expected = (markers_of(path.read_text(encoding="utf-8")) for path in (repeated, once))
    assert found == [named[marker] for marker in expected]


@pytest.mark.parametrize("has_matrix", [False, True], ids=["none", "zeros"])
def test_cells_without_expression_have_no_markers(
    projected: AnnData, tmp_path: Path, has_matrix: bool
) -> None:
    projected.X = sparse.csr_matrix(projected.shape) if has_matrix else None  # as minified ones
    text = sx.pl.report(projected, tmp_path / "report.html", labels_key="celltype").read_text()
    found = set(Parsed(text).sections)
    assert "markers" not in found
    assert {"scores", "unknown", "confusion"} <= found


def test_sparse_arrays_are_reported_as_sparse_matrices(
    page: Path, projected: AnnData, tmp_path: Path
) -> None:
    projected.X = sparse.csr_array(projected.X)
    text = sx.pl.report(projected, tmp_path / "arrays.html", labels_key="celltype").read_text()
    of_matrix = page.read_text(encoding="utf-8")
    assert markers_of(text) == markers_of(of_matrix)
    assert text.count("detected in") == of_matrix.count("detected in") > 1


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_markers_of_counts_are_those_of_log_normalized_values(
    page: Path, projected: AnnData, tmp_path: Path, dense: bool
) -> None:
    if dense:
        projected.X = projected.X.toarray().astype(np.int64)
        of_counts = sx.pl.report(projected, tmp_path / "counts.html", labels_key="celltype")
    else:
        of_counts = page
    projected.X = projected.X.astype(np.float32)
    sc.pp.normalize_total(projected, target_sum=1e4)
    sc.pp.log1p(projected)
    of_logarithms = sx.pl.report(projected, tmp_path / "logarithms.html", labels_key="celltype")
    found, expected = (
        re.search(r'<svg[^>]*aria-label="Marker dot plot".*?</svg>', path.read_text("utf-8"))
        for path in (of_counts, of_logarithms)
    )
    assert found is not None
    assert expected is not None
    assert found[0] == expected[0]


def test_a_name_has_the_color_that_pictures_give_it(projected: AnnData, tmp_path: Path) -> None:
    """By name: the labels on the map are others, in another order, than those of the column."""
    projected.uns["celltype_colors"] = ["#110000", "#220000", "#330000"]
    page = sx.pl.report(projected, tmp_path / "r.html", labels_key="celltype")
    columns = data_of(page.read_text(encoding="utf-8"))["columns"]
    for key in ("labels", "transfer"):
        found = dict(zip(columns[key]["names"], columns[key]["colors"], strict=True))
        assert found.pop("unknown", "#808080") == "#808080"
        assert found == {"type0": "#110000", "type1": "#220000", "type2": "#330000"}


def test_sections_and_unknown_cells(page: Path, projected: AnnData) -> None:
    text = page.read_text(encoding="utf-8")
    wanted = {"unknown", "why", "cells", "genes", "confidence", "markers", "confusion", "scores"}
    assert wanted | {"made"} <= set(Parsed(text).sections)
    n_unknown = int((projected.obs["celltype_transfer"] == "unknown").sum())
    assert re.search(rf"{n_unknown} of 50\s+query cells are called unknown", text)
    assert "The random seed was 7" in text


@pytest.mark.parametrize(
    ("unknown", "verdict"),
    [
        (lambda obs: obs["leiden"] == "1", "Probably new: cluster 1 (25 of 25 cells)."),
        (
            lambda obs: (obs["leiden"] == "1") & (np.arange(len(obs)) % 3 > 0),
            "New, or of a known type that the query&#39;s technology changes: cluster 1 (",
        ),
        (lambda obs: np.arange(len(obs)) < 110, "No cluster of 15 cells is mostly unknown"),
        (lambda obs: np.zeros(len(obs), dtype=bool), "No cell is unknown"),
    ],
    ids=["a cluster", "most of a cluster", "some cells", "none"],
)
def test_the_verdict_names_clusters_that_are_mostly_unknown(
    projected: AnnData, tmp_path: Path, unknown: Callable, verdict: str
) -> None:
    is_query = projected.obs["projection"] == "query"
    labels = projected.obs["celltype"].astype(str).mask(unknown(projected.obs), "unknown")
    projected.obs["celltype_transfer"] = labels.where(is_query).astype("category")
    text = sx.pl.report(projected, tmp_path / "r.html", labels_key="celltype").read_text("utf-8")
    assert verdict in text
    assert ("alert poor" in text) == verdict.startswith("Probably new")


def test_few_cells_are_not_called_new(projected: AnnData, tmp_path: Path) -> None:
    """Fewer than are averaged with: cells of other types are among these."""
    few = np.arange(150) >= 140
    projected.obs["leiden"] = pd.Categorical(np.where(few, "2", projected.obs["leiden"]))
    labels = projected.obs["celltype_transfer"].astype(str).mask(few, "unknown")
    is_query = projected.obs["projection"] == "query"
    projected.obs["celltype_transfer"] = labels.where(is_query).astype("category")
    text = sx.pl.report(projected, tmp_path / "r.html", labels_key="celltype").read_text("utf-8")
    assert "Too few cells to tell: cluster 2 (10 of 10 cells)." in text


def test_genes_that_the_query_lacks_are_counted(projected: AnnData, tmp_path: Path) -> None:
    query = projected[projected.obs["projection"] == "query", :15].copy()
    text = sx.pl.report(projected, tmp_path / "r.html", before=query).read_text("utf-8")
    assert re.search(r"named in the query&#39;s file</td>.*?15 of 60.*?light poor", text)


@pytest.mark.parametrize("key", ["scalex_measured_in_query", "scalex_measured"])
def test_genes_that_the_query_lacks_describe_no_cells(
    projected: AnnData, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "r.html"

    def genes_named() -> tuple[str, set[str], set[str]]:
        text = sx.pl.report(projected, path, labels_key="celltype").read_text("utf-8")
        dots = re.search(r'<svg[^>]*aria-label="Marker dot plot".*?</svg>', text)
        table = re.search(r'<section id="why">.*?</section>', text, re.DOTALL)
        assert dots is not None
        assert table is not None
        return text, *(set(re.findall(r"gene\d+", found[0])) for found in (dots, table))

    text, markers, of_clusters = genes_named()
    assert "features that the query lacks" not in text
    lacking = set(list(projected.var_names)[::2])
    assert markers & lacking
    assert of_clusters & lacking
    is_query = (projected.obs["projection"] == "query").to_numpy()
    x = projected.X.toarray()
    x[np.ix_(is_query, projected.var_names.isin(lacking))] = 0
    projected.X = sparse.csr_matrix(x)
    projected.var[key] = ~projected.var_names.isin(lacking)
    text, markers, of_clusters = genes_named()
    assert markers
    assert of_clusters
    assert not (markers | of_clusters) & lacking
    assert "Left out are 30 features that the query lacks." in text


def test_options_that_differ_from_their_defaults_come_first(
    counts: AnnData, tmp_path: Path
) -> None:
    about = {"options": {"lr": 0.1, "join": "inner"}, "defaults": {"lr": 0.002, "join": "inner"}}
    text = sx.pl.report(counts, tmp_path / "r.html", about=about).read_text("utf-8")
    given, others = text.split("All other options")
    assert "<td>lr</td><td>0.1</td><td>0.002</td>" in given
    assert "<td>join</td>" not in given
    assert "<td>join</td><td>inner</td>" in others


@pytest.mark.parametrize("removed", [True, False])
def test_removed_offsets_are_told_where_they_were(
    prepared: AnnData, tmp_path: Path, removed: bool
) -> None:
    model = trained_model(prepared, max_epochs=2, remove_offsets=removed)
    prepared.obsm["latent"] = model.get_latent_representation()
    how = {"model": model, "about": {"options": dict(sx.train.DEFAULT)}, "batch_key": "batch"}
    text = sx.pl.report(prepared, tmp_path / "r.html", **how).read_text("utf-8")
    assert "The model was trained for 2 epochs" in text
    assert ("were removed from the encoder" in text) is removed


def test_what_is_usual_is_what_the_tables_say() -> None:
    """By the tables that the documentation has, one batch of each set left out at a time."""
    scores = pd.read_csv(DOCS / "projection_scores.csv")
    ours = scores[(scores["method"] == "ours (running)") & ~scores["set"].str.startswith("pooled")]
    by_set = ours.groupby("set")["macro_f1"].mean()
    usual = (round(by_set.mean(), 2), round(by_set.min(), 2), len(by_set))
    assert usual == (_report_usual.F1_MEAN, _report_usual.F1_LOWEST, _report_usual.F1_SETS)
    text = (DOCS / "label_transfer.md").read_text(encoding="utf-8")
    row = re.search(r"^\| ours \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE)
    assert row is not None
    _, found, refused = (round(float(value), 2) for value in row.groups())
    assert (found, refused) == (_report_usual.NEW_FOUND, _report_usual.KNOWN_REFUSED)


def test_what_is_absent_is_left_out(counts: AnnData, tmp_path: Path) -> None:
    text = sx.pl.report(counts, tmp_path / "report.html").read_text(encoding="utf-8")
    assert not {"unknown", "confusion", "confidence"} & set(Parsed(text).sections)
    assert data_of(text)["panels"] == []


def test_mistakes(counts: AnnData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must end in '.html'"):
        sx.pl.report(counts, tmp_path / "report.pdf")
    with pytest.raises(FileNotFoundError, match="Make it first"):
        sx.pl.report(counts, tmp_path / "absent" / "report.html")
    with pytest.raises(KeyError, match="`labels_key` 'kind'"):
        sx.pl.report(counts, tmp_path / "report.html", labels_key="kind")
    assert not list(tmp_path.iterdir())


# Put into a copy of the page: what goes wrong in it, what it asks for, what it has drawn.
PROBE_FIRST = """<script>window.wrong = [];
addEventListener("error", (e) => wrong.push(e.message || `not loaded: ${e.target.src}`), true);
addEventListener("securitypolicyviolation", (e) => wrong.push(`asked for ${e.blockedURI}`));
</script>"""
PROBE_LAST = """<script>addEventListener("load", () => {
  const asked = performance.getEntriesByType("resource").map((e) => `asked for ${e.name}`);
  document.body.dataset.wrong = [...wrong, ...asked].join("; ");
  document.body.dataset.colors = [...document.querySelectorAll("canvas")].map((c) => new Set(
    new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer)).size);
  document.body.dataset.tooWide = String(document.documentElement.scrollWidth > innerWidth);
});</script>"""


def opened(page: Path, folder: Path, extra: str = "") -> dict[str, str]:
    """Open a page in a browser, and return what the probe found."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {BROWSERS!r} is installed")
    text = page.read_text(encoding="utf-8")
    probed = folder / "probed.html"
    head, end = text.index("<title>"), text.index("</body>")
    text = text[:head] + PROBE_FIRST + text[head:end] + extra + PROBE_LAST + text[end:]
    probed.write_text(text, encoding="utf-8")
    argv = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    argv += ["--window-size=500,900", "--virtual-time-budget=2000"]
    argv += [f"--user-data-dir={folder / 'browser'}", probed.as_uri()]
    dom = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout
    body = re.search(r"<body[^>]*>", dom)
    assert body is not None
    return dict(re.findall(r'data-([\w-]+)="([^"]*)"', body.group()))


def test_the_browser_draws_all_panels(page: Path, tmp_path: Path) -> None:
    found = opened(page, tmp_path)
    assert found["wrong"] == ""  # no error, and nothing asked for that is not in the file
    assert found["drawn"] == "7"  # set by the script's last line
    colors = [int(n) for n in found["colors"].split(",")]
    assert len(colors) == 7
    assert min(colors) > 3  # the background, and cells of several kinds
    assert found["too-wide"] == "false"


def test_the_probe_sees_what_is_wrong(page: Path, tmp_path: Path) -> None:
    """Else the test above could not fail."""
    extra = '<script>nothing.of.this.name</script><img src="https://example.org/a.png">'
    found = opened(page, tmp_path, extra)
    assert "nothing is not defined" in found["wrong"]
    assert "asked for https://example.org/a.png" in found["wrong"]

"""The report is one file that needs no network, and holds what it draws."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scalex_scvi as sx

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
    counts.obs["celltype_uncertainty"] = np.where(is_query, 0.5, np.nan)
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
    assert len(data["panels"]) == 6
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


def test_sections_and_unknown_cells(page: Path, projected: AnnData) -> None:
    text = page.read_text(encoding="utf-8")
    wanted = {"unknown", "cells", "genes", "confidence", "markers", "confusion", "scores", "made"}
    assert wanted <= set(Parsed(text).sections)
    n_unknown = int((projected.obs["celltype_transfer"] == "unknown").sum())
    assert f"{n_unknown} of 50 query cells are called unknown" in text
    assert "The random seed was 7" in text


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


def test_the_browser_draws_all_panels(page: Path, tmp_path: Path) -> None:
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {BROWSERS!r} is installed")
    argv = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    argv += [f"--user-data-dir={tmp_path / 'browser'}", page.as_uri()]
    dom = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout
    assert 'data-drawn="6"' in dom  # set by the script's last line

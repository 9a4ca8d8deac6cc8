"""What the data hold beside the counts never costs a training."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import simulate_counts

import scalex_scvi as sx
from scalex_scvi import _results
from scalex_scvi.io import RunFolder, make_writable

pytestmark = pytest.mark.usefixtures("narrow")

FAST = {
    "min_features": 0,
    "max_iteration": 2,
    "ignore_umap": True,
    "progress_bar": False,
}
N = 30


@pytest.fixture
def cells() -> AnnData:
    return simulate_counts(N, 20, 2)


def alternating(first: Any, second: Any) -> pd.Series:
    values = pd.Series([None] * N, dtype=object)
    for i in range(N):
        values[i] = first if i % 2 else second
    return values


# A column of obs, and how it comes back.
COLUMNS: dict[str, tuple[Any, Any]] = {
    "mixed": (alternating(1, "a"), alternating("1", "a")),
    "dates": (
        pd.Series(pd.date_range("2020-01-01", periods=N)),
        pd.Series([f"2020-01-{i + 1:02d}" for i in range(N)]),
    ),
    "a missing date": (
        pd.Series(pd.to_datetime(["2020-01-01", None] * (N // 2))),
        alternating(np.nan, "2020-01-01"),
    ),
    "time spans": (pd.Series(pd.to_timedelta([1] * N, "D")), pd.Series(["1 days"] * N)),
    "periods": (pd.Series(pd.period_range("2020", periods=1, freq="D").repeat(N)), "2020-01-01"),
    "intervals": (pd.Series(pd.cut(np.arange(N), [-1, 9, 40])), None),
    "lists": (alternating([1, 2], ["a"]), alternating("[1, 2]", "['a']")),
    "sets": (alternating({"b", "a"}, {"c"}), alternating("{a, b}", "{c}")),
    "bytes": (alternating(b"a", b"b"), alternating("a", "b")),
    "numbers with gaps": (alternating(1, None), alternating(1, np.nan)),
    "booleans with gaps": (alternating(True, None), alternating(True, np.nan)),
    "pandas' own fractions": (
        pd.Series(pd.array([0.5, None] * (N // 2), dtype="Float64")),
        alternating(np.nan, 0.5),
    ),
    "categories of these": (
        pd.Series(pd.array([0.5, None] * (N // 2), dtype="Float32")).astype("category"),
        alternating(np.nan, 0.5),
    ),
    "nothing": (alternating(None, None), alternating(np.nan, np.nan)),
    "zero characters": (alternating("a\x00b", "c"), alternating("ab", "c")),
    "half characters": (alternating("\udc80", "c"), alternating("\\udc80", "c")),
    "own text type": (pd.Series([f"x{i}" for i in range(N)], dtype="string"), None),
    "mixed categories": (alternating(1, "a").astype("category"), alternating("1", "a")),
    "categories of dates": (
        pd.Series(pd.to_datetime(["2020-01-01"] * N)).astype("category"),
        pd.Series(["2020-01-01"] * N),
    ),
}


@pytest.mark.parametrize(("given", "expected"), COLUMNS.values(), ids=COLUMNS.keys())
def test_every_column_is_written(
    cells: AnnData, tmp_path: Path, given: pd.Series, expected: Any
) -> None:
    cells.obs["column"] = given.to_numpy() if given.dtype == object else given.array
    before = cells.obs.copy()
    shared = AnnData(cells.X, obs=cells.obs, var=cells.var)
    make_writable(shared)
    shared.write_h5ad(tmp_path / "x.h5ad")
    pd.testing.assert_frame_equal(cells.obs, before)
    found = ad.read_h5ad(tmp_path / "x.h5ad").obs["column"].astype(object).reset_index(drop=True)
    expected = given.astype(str) if expected is None else expected
    expected = pd.Series([expected] * N) if isinstance(expected, str) else expected
    assert list(found.isna()) == list(expected.isna())
    there = expected.notna()
    assert list(found[there].astype(str)) == list(expected[there].astype(str))


UNS: dict[str, tuple[Any, Any]] = {
    "set": ({"b", "a"}, ["a", "b"]),
    "tuple": ((1, 2), [1, 2]),
    "mixed list": ([1, "a"], ["1", "a"]),
    "date": (pd.Timestamp("2020-01-01"), "2020-01-01 00:00:00"),
    "python's date": (datetime.date(2020, 1, 1), "2020-01-01"),
    "interval": (pd.Interval(0, 1), "(0, 1]"),
    "keys that are numbers": ({1: 2}, {"1": 2}),
    "keys with slashes": ({"a/b": 1}, {"a|b": 1}),
    "a function": (print, None),
    "a function inside": ({"f": print, "a": 1}, {"a": 1}),
    "list of mappings": ([{"a": 1}], ["{'a': 1}"]),
}


@pytest.mark.parametrize(("given", "expected"), UNS.values(), ids=UNS.keys())
def test_everything_in_uns_is_written_or_said(
    cells: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture, given: Any, expected: Any
) -> None:
    cells.uns["value"] = given
    make_writable(cells)
    cells.write_h5ad(tmp_path / "x.h5ad")
    found = ad.read_h5ad(tmp_path / "x.h5ad").uns.get("value")
    found = found.tolist() if isinstance(found, np.ndarray) else found
    assert found == expected
    if expected is None:
        assert "uns['value'] (builtin_function_or_method) is left out" in caplog.text


def test_names_of_columns(cells: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [5, "5", "a/b", "a", "", ".", "_index", "x"]
    cells.obs = pd.concat(
        [
            cells.obs,
            pd.DataFrame({n: np.arange(N) + i for i, n in enumerate(names)}, cells.obs_names),
        ],
        axis=1,
    )
    cells.obs.index.name = "x"
    renamed = make_writable(cells)
    cells.write_h5ad(tmp_path / "x.h5ad")
    found = ad.read_h5ad(tmp_path / "x.h5ad").obs
    assert renamed == {5: "5_", "a/b": "a|b", "": "_", ".": "_.", "_index": "own_index"}
    expected = [renamed.get(name, name) for name in names]
    assert list(found.columns[2:]) == expected
    assert [found[name].iloc[0] for name in expected] == list(range(len(names)))
    assert "obs['a/b'] is obs['a|b']" in caplog.text


@pytest.mark.parametrize(
    "names",
    [["10x", "10x/v3"], ["", "b"], [".", "b"], ["_index", "50%"], ["a/b", "a%2Fb"]],
    ids=str,
)
def test_names_of_batches_are_no_keys(cells: AnnData, tmp_path: Path, names: list[str]) -> None:
    cells.obs["batch"] = pd.Categorical(np.array(names)[np.arange(N) % 2])
    adata = sx.SCALEX(cells, outdir=tmp_path / "ref", impute=names[1], **FAST)
    written = ad.read_h5ad(tmp_path / "ref" / "adata.h5ad")
    record = sx.pp.Preprocessing.from_adata(written)
    assert set(record.scale.columns) == set(names)
    again = sx.SCALEX(
        cells, projection=tmp_path / "ref", repeat=True, outdir=tmp_path / "p", **FAST
    )
    np.testing.assert_allclose(again.obsm["latent"], adata.obsm["latent"], atol=1e-6)
    assert set(ad.read_h5ad(tmp_path / "p" / "adata.h5ad").obs["batch"]) == set(names)


def test_a_column_of_numbers_in_the_reference_and_text_in_the_query(
    cells: AnnData, tmp_path: Path
) -> None:
    cells.obs["cluster"] = np.arange(N) % 3
    cells.obs["a/b"] = ["x", "y"] * (N // 2)
    cells.uns["made"] = {datetime.date(2020, 1, 1)}
    before = cells.copy()
    sx.SCALEX(cells, outdir=tmp_path / "ref", label="a/b", **FAST)
    query = simulate_counts(20, 20, 1, seed=4)
    query.obs["cluster"] = "three"
    sx.SCALEX(query, projection=tmp_path / "ref", outdir=tmp_path / "both", **FAST)
    found = ad.read_h5ad(tmp_path / "both" / "adata.h5ad").obs["cluster"]
    assert set(found) == {"0", "1", "2", "three"}
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    assert cells.uns["made"] == before.uns["made"]


@pytest.mark.parametrize("step", ["embed", "_draw", "write_adata"])
def test_a_failure_after_the_training_keeps_the_model(
    cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_results, "embed", lambda *args, **kwargs: True)
    monkeypatch.setattr(_results, "uncorrected_umap", lambda *args, **kwargs: None)
    monkeypatch.setattr(RunFolder if step == "write_adata" else _results, step, failing)
    options = FAST | {"ignore_umap": step == "write_adata", "show": False}
    with pytest.raises(OSError, match="No space") as raised:
        sx.SCALEX(cells, outdir=tmp_path / "run", **options)
    place = str(tmp_path / "run" / "trained_model")
    assert raised.value.__notes__ == [
        f"The trained model is kept: SCALEXModel.load({place!r}, adata=False)."
    ]
    kept = sx.SCALEXModel.load(place, adata=False)
    monkeypatch.undo()
    adata = sx.SCALEX(cells, outdir=tmp_path / "run", **FAST)
    np.testing.assert_allclose(
        kept.get_latent_representation(cells.copy()), adata.obsm["latent"], atol=1e-5
    )
    assert not (tmp_path / "run" / "trained_model").exists()

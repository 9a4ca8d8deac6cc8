"""The command line: what each command writes and prints, and how it fails."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import QUIET, simulate_counts

import scalex_scvi as sx
from scalex_scvi import cli
from scalex_scvi._demo import demo
from scalex_scvi._outputs import Outputs
from scalex_scvi.pp import Preparation

pytestmark = pytest.mark.usefixtures("narrow")

FAST = ["--min-features", "0", "--max-iteration", "8", "--lr", "2e-3", "--quiet"]
NO_UMAP = [*FAST, "--ignore-umap"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of the counts of a reference and of a query."""
    folder = tmp_path_factory.mktemp("inputs")
    query = simulate_counts(80, n_batches=1, seed=5)
    query.obs["batch"] = pd.Categorical(["new"] * 80)
    query.obs_names = [f"query{i}" for i in range(80)]
    places = {"counts": folder / "counts.h5ad", "query": folder / "query.h5ad"}
    simulate_counts().write_h5ad(places["counts"])
    query.write_h5ad(places["query"])
    return {name: str(path) for name, path in places.items()}


@pytest.fixture
def files(inputs: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The same paths, and one to write to."""
    return inputs | {"out": str(tmp_path / "out")}


@pytest.fixture(scope="module")
def run(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run folder of an integrated reference, to be read."""
    ref = str(tmp_path_factory.mktemp("run") / "ref")
    assert cli.main(["integrate", inputs["counts"], "-o", ref, *NO_UMAP]) == 0
    return ref


@pytest.fixture(scope="module")
def run_with_umap(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another with a map, to be read."""
    ref = str(tmp_path_factory.mktemp("run") / "with_umap")
    assert cli.main(["integrate", inputs["counts"], "-o", ref, *FAST]) == 0
    return ref


@pytest.fixture(scope="module")
def projected(inputs: dict[str, str], run: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run folder of a projection, to be read."""
    folder = str(tmp_path_factory.mktemp("projection") / "projected")
    argv = ["project", inputs["query"], "-r", run, "-o", folder, "--label", "celltype"]
    assert cli.main([*argv, "--ignore-umap", "--quiet"]) == 0
    return folder


def test_three_routes_give_the_same_latent_to_the_last_bit(
    counts: AnnData, files: dict[str, str], run: str, projected: str, tmp_path: Path
) -> None:
    query = ad.read_h5ad(files["query"])

    adata = sx.pp.rna(counts, batch_key="batch", min_features=0)
    sx.SCALEXModel.setup_anndata(adata, batch_key="batch")
    model = sx.SCALEXModel(adata)
    model.train(max_steps=8, lr=2e-3, **QUIET)
    scvi_style = model.get_latent_representation()
    query_model = sx.SCALEXModel.load_query_data(query, model)
    scvi_query = query_model.get_latent_representation()

    options = {"min_features": 0, "ignore_umap": True, "progress_bar": False}
    one_call = sx.SCALEX(counts, outdir=tmp_path / "py", max_iteration=8, lr=2e-3, **options).obsm[
        "latent"
    ]
    one_call_query = sx.SCALEX(query, projection=tmp_path / "py", repeat=True, **options).obsm[
        "latent"
    ]

    shell = ad.read_h5ad(Path(run) / "adata.h5ad").obsm["latent"]
    both = ad.read_h5ad(Path(projected) / "adata.h5ad")
    shell_query = both.obsm["latent"][(both.obs["projection"] == "query").to_numpy()]

    for latent in (one_call, shell):
        np.testing.assert_array_equal(latent, scvi_style)
    for latent in (one_call_query, shell_query):
        np.testing.assert_array_equal(latent, scvi_query)


def test_published_flags_as_users_type_them(files: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "typed"
    argv = ["--data_list", files["counts"], files["query"], "--batch_categories", "A", "B"]
    argv += ["-o", str(out), "--min_features", "0", "--max_iteration", "8", "--n_top_features"]
    assert cli.scalex_main([*argv, "40", "--ignore_umap", "--quiet"]) == 0
    adata = ad.read_h5ad(out / "adata.h5ad")
    assert adata.obs["batch"].value_counts().to_dict() == {"A": 150, "B": 80}
    assert adata.n_vars == 40
    argv = ["-d", files["query"], "--projection", str(out), "-o", str(tmp_path / "p"), "--repeat"]
    assert cli.scalex_main([*argv, "--ignore_umap", "--quiet"]) == 0
    assert ad.read_h5ad(tmp_path / "p" / "adata.h5ad").n_obs == 80


@pytest.mark.parametrize(
    ("flags", "attribute", "value"),
    [
        (["--min_gene", "7"], "min_features", 7),
        (["--min_cell", "2"], "min_cells", 2),
        (["--n_top_genes", "-1"], "n_top_features", "-1"),
        (["--batch_name", "donor,lane"], "batch_name", "donor,lane"),
        (["--batch_key=other_name"], "batch_key", "other_name"),
        (["-c", "folder"], "checkpoint", "folder"),
        (["-g", "1"], "gpu", 1),
        (["--impute"], "impute", True),
        (["--impute", "batch_1"], "impute", "batch_1"),
        (["--processed"], "processed", True),
        (["--num_workers", "2"], "num_workers", 2),
        ([], "outdir", "output/"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_documented_flags_are_understood(flags: list[str], attribute: str, value: object) -> None:
    args = cli.build_scalex_parser().parse_args(cli._dashes(["-d", "a_b.h5ad", *flags]))
    assert getattr(args, attribute) == value
    assert args.data == ["a_b.h5ad"]


@pytest.mark.parametrize("flag", ["--label", "--labels"])
@pytest.mark.parametrize("command", ["integrate", "project", "map", "transfer", "assess", "demo"])
def test_label_and_labels_are_one_option(command: str, flag: str) -> None:
    typed = {"transfer": ["a", "-o", "o.csv"], "assess": ["a"], "demo": ["-o", "o"]}
    rest = typed.get(command, ["a.h5ad", "-o", "o"])
    rest += ["-r", "ref"] if command in ("project", "map") else []
    args = vars(cli.build_parser().parse_args([command, *rest, flag, "type"]))
    assert args.get("label", args.get("labels")) in ("type", ["type"])


def test_checkpoint_reproduces_the_results(files: dict[str, str], run: str, tmp_path: Path) -> None:
    argv = ["-d", files["counts"], "-c", run, "-o", str(tmp_path / "again"), "--ignore_umap", "-q"]
    assert cli.scalex_main(argv) == 0
    latents = [
        ad.read_h5ad(Path(f) / "adata.h5ad").obsm["latent"] for f in (run, tmp_path / "again")
    ]
    np.testing.assert_array_equal(*latents)


def test_a_run_can_be_repeated_from_its_options(
    files: dict[str, str], run: str, tmp_path: Path
) -> None:
    options = str(Path(run) / "options.yaml")
    again = str(tmp_path / "again")
    assert cli.main(["integrate", "--config", options, "--outdir", again]) == 0
    latents = [ad.read_h5ad(Path(f) / "adata.h5ad").obsm["latent"] for f in (run, again)]
    np.testing.assert_array_equal(*latents)


def test_typed_options_win_over_the_file(files: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"data: [{files['counts']}]\nmin_features: 0\nmax-iteration: 8\nn_top_genes: 30\n"
        f"ignore_umap: true\nquiet: true\noutdir: {tmp_path / 'a'}\n",
        encoding="utf-8",
    )
    assert cli.main(["integrate", "--config", str(config)]) == 0
    assert (
        cli.main(
            ["integrate", "--config", str(config), "--n-top-features", "20", "-o", files["out"]]
        )
        == 0
    )
    assert ad.read_h5ad(tmp_path / "a" / "adata.h5ad").n_vars == 30
    assert ad.read_h5ad(Path(files["out"]) / "adata.h5ad").n_vars == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_featurs: 3", "no option 'min-featurs'"),
        ("lr: fast", "'fast' is not a valid float"),
        ("join: left", "must be one of"),
        ("quiet: 3", "must be true or false"),
        ("- just\n- a list", "option: value"),
        ("a: [", "cannot be read"),
    ],
    ids=["unknown", "type", "choice", "switch", "list", "not yaml"],
)
def test_mistakes_in_the_options_file(
    tmp_path: Path, capsys: pytest.CaptureFixture, text: str, message: str
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        cli.main(["integrate", "x.h5ad", "-o", "out", "--config", str(config)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_transfer_writes_a_table(projected: str, tmp_path: Path) -> None:
    out = str(tmp_path / "labels.csv")
    assert cli.main(["transfer", projected, "--unknown", "-o", out, "-q"]) == 0
    labels = pd.read_csv(out, index_col="cell")
    assert len(labels) == 80
    assert list(labels) == [
        f"celltype_{what}" for what in ("transfer", "probability", "p_value", "unknown")
    ]
    assert ((labels["celltype_transfer"] == "unknown") == labels["celltype_unknown"]).all()
    assert (labels["celltype_unknown"] == (labels["celltype_p_value"] <= 0.05)).all()
    adata = ad.read_h5ad(Path(projected) / "adata.h5ad")
    plain = adata.obs["celltype_transfer"].dropna().astype(str)
    accepted = ~labels["celltype_unknown"]
    assert list(labels["celltype_transfer"][accepted]) == list(plain[labels.index[accepted]])


def test_genes_that_the_query_lacks_do_not_decide_a_transfer(
    inputs: dict[str, str], run: str, tmp_path: Path
) -> None:
    some = ad.read_h5ad(inputs["query"])[:, ::2].copy()
    some.write_h5ad(tmp_path / "some.h5ad")
    argv = ["project", str(tmp_path / "some.h5ad"), "-r", run, "--ignore-umap", "--quiet"]
    both, alone = str(tmp_path / "both"), str(tmp_path / "alone")
    assert cli.main([*argv, "-o", both]) == 0
    assert cli.main([*argv, "-o", alone, "--repeat"]) == 0
    tables = []
    for places in ([both], [run, both], [run, alone]):
        out = str(tmp_path / "labels.csv")
        assert cli.main(["transfer", *places, "-o", out, "-q"]) == 0
        tables.append(pd.read_csv(out, index_col="cell"))
    for table in tables[:2]:
        pd.testing.assert_frame_equal(table, tables[2], atol=1e-4)


def test_impute_writes_expression(run: str, tmp_path: Path) -> None:
    out = tmp_path / "imputed.h5ad"
    assert cli.main(["impute", run, "--batch", "batch1", "-o", str(out), "-q"]) == 0
    imputed = ad.read_h5ad(out)
    adata = ad.read_h5ad(Path(run) / "adata.h5ad")
    model = sx.SCALEXModel.load(Path(run) / "checkpoint", adata)
    expected = model.get_imputed_expression(transform_batch="batch1", return_numpy=True)
    assert list(imputed.obs_names) == list(adata.obs_names)
    np.testing.assert_allclose(np.asarray(imputed.X), expected, atol=1e-6)


@pytest.mark.parametrize(
    "argv",
    [
        ["embedding", "--color", "celltype", "--groupby", "batch"],
        ["meta"],
        ["meta-pair", "--groups", "batch0", "batch1"],
        ["umap", "--color", "batch", "celltype"],
    ],
    ids=lambda argv: argv[0],
)
def test_plot_writes_a_picture(run_with_umap: str, tmp_path: Path, argv: list[str]) -> None:
    picture = tmp_path / "picture.png"
    assert cli.main(["plot", run_with_umap, *argv, "-o", str(picture), "-q"]) == 0
    assert picture.stat().st_size > 5_000


def test_plot_confusion_prints_the_scores(
    projected: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = ["plot", projected, "confusion", "-o", str(tmp_path / "c.png"), "-q"]
    assert cli.main(argv) == 0
    assert "cells 80  F1" in capsys.readouterr().out


def test_assess_prints_and_writes_scores(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "scores.csv"
    assert cli.main(["assess", run, "-o", str(out), "-q"]) == 0
    assert "batch_entropy_mixing_score" in capsys.readouterr().out
    scores = pd.read_csv(out, index_col="representation").loc["latent"]
    adata = ad.read_h5ad(Path(run) / "adata.h5ad")
    assert scores["knn_purity"] == pytest.approx(
        sx.metrics.knn_purity(adata.obsm["latent"], adata.obs["celltype"])
    )


def test_demo_on_the_embedded_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--max-steps", "150", "--batch-size", "64", "--lr", "2e-3", "--quiet"]
    flags += ["--n-top-features", "500"]
    assert cli.main(["demo", "-o", str(tmp_path / "demo"), *flags]) == 0
    printed, messages = capsys.readouterr()
    assert "Epoch" not in messages and "not integers" not in messages
    assert "500 real pancreas cells" in printed
    assert f"Results are in {tmp_path / 'demo'}" in printed
    scores = pd.read_csv(tmp_path / "demo" / "scores.csv").set_index("score")["value"]
    assert scores["same-batch neighbors, integrated"] < scores["same-batch neighbors, uncorrected"]
    assert scores["accuracy of transferred labels"] > 0.5
    assert 0 <= scores["known cells called unknown"] < 0.5
    assert 0 <= scores["new cells called unknown"] <= 1
    for folder in ("reference", "projection"):
        assert (tmp_path / "demo" / folder / "umap.png").exists()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_in_a_terminal_alone(
    files: dict[str, str],
    is_terminal: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    loud = [option for option in NO_UMAP if option != "--quiet"]
    assert cli.main(["integrate", files["counts"], "-o", files["out"], *loud]) == 0
    assert ("Epoch" in "".join(capsys.readouterr())) is is_terminal


def test_demo_on_given_data(counts: AnnData, tmp_path: Path) -> None:
    scores = demo(
        counts,
        held_out="batch1",
        preparation=Preparation(min_features=0),
        outputs=Outputs(outdir=tmp_path / "out"),
        train_kwargs={"max_epochs": 4} | QUIET,
    )
    assert len(scores) == 7
    assert scores["value"].between(0, 1).all()


SHORT_DEMO = ["--max-steps", "5", "-q", "--json"]


@pytest.fixture(scope="module")
def scores_of_counts(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a demo of the counts as they are writes."""
    out = tmp_path_factory.mktemp("demo") / "plain"
    assert cli.main(["demo", inputs["counts"], "-o", str(out), *SHORT_DEMO]) == 0
    return (out / "scores.csv").read_text()


@pytest.mark.parametrize("where", ["layer", "raw"])
def test_demo_on_counts_beside_logarithms(
    counts: AnnData,
    scores_of_counts: str,
    tmp_path: Path,
    where: str,
    capsys: pytest.CaptureFixture,
) -> None:
    if where == "raw":
        counts.raw = counts.copy()
    else:
        counts.layers["counts"] = counts.X.copy()
    counts.X = np.log1p(counts.X)
    counts.write_h5ad(tmp_path / "beside.h5ad")
    capsys.readouterr()  # what the fixture printed, too
    argv = ["demo", str(tmp_path / "beside.h5ad"), "-o", str(tmp_path / "beside"), *SHORT_DEMO]
    assert cli.main([*argv, *(["--use-layer", "counts"] if where == "layer" else [])]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 7
    assert (tmp_path / "beside" / "scores.csv").read_text() == scores_of_counts


MISTAKES = {
    "no file": (["integrate", "nowhere.h5ad", "-o", "{out}"], "no file 'nowhere.h5ad'"),
    "too strict": (["integrate", "{counts}", "-o", "{out}"], "Lower --min-features"),
    "no batch": (
        ["integrate", "{counts}", "-o", "{out}", "--batch-name", "donor"],
        "--batch-name 'donor': there is no column",
    ),
    "no run": (["impute", "nowhere", "-o", "{out}.h5ad"], "Name a folder that `integrate`"),
    "no reference": (["project", "{counts}", "-r", "{out}", "-o", "{out}2"], "no folder"),
    "into the reference": (
        ["project", "{counts}", "-r", "{out}", "-o", "{out}"],
        "is the reference, which the results would replace",
    ),
    "no label": (["demo", "{counts}", "-o", "{out}", "--label", "type"], "'type' is not a column"),
    "no held-out batch": (
        ["demo", "{counts}", "-o", "{out}", "--held-out", "x"],
        "must be one of two or more batches",
    ),
    "no such type": (
        ["demo", "{counts}", "-o", "{out}", "--left-out", "x"],
        "--left-out 'x' is not in obs",
    ),
    "no run folder": (["assess", "."], "is '.' a run folder"),
    "no projection": (["transfer", "{counts}", "-o", "{out}.csv"], "holds no projection"),
    "no umap": (["plot", "{counts}", "umap", "-o", "{out}.png"], "X_umap"),
}


@pytest.mark.parametrize(("argv", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_explained_without_a_traceback(
    files: dict[str, str], capsys: pytest.CaptureFixture, argv: list[str], message: str
) -> None:
    assert cli.main([arg.format(**files) for arg in argv] + ["--quiet"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (Path(files["out"]) / "options.yaml").exists()


def test_an_interruption_has_its_own_exit_code(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sx.SCALEXModel, "train", interrupted)
    assert cli.main(["integrate", files["counts"], "-o", files["out"], *FAST]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.argv", ["scalex_scvi", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("scalex_scvi", run_name="__main__", alter_sys=True)
    assert stop.value.code == 0
    assert sx.__version__ in capsys.readouterr().out


def test_help_and_usage_errors(capsys: pytest.CaptureFixture) -> None:
    for argv, code in ((["--help"], 0), (["--version"], 0), (["integrate"], 2), ([], 2)):
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        assert stop.value.code == code
    assert sx.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    ["integrate", "project", "map", "reference", "transfer", "impute", "plot", "assess", "demo"],
)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: scalex-scvi {command}" in capsys.readouterr().out

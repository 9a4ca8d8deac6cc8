"""What publishing needs is there, valid, and of one version."""

from __future__ import annotations

import re
import runpy
import shutil
import tomllib
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import yaml
from conftest import simulate_counts

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGING = ROOT / "packaging"


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_one_version() -> None:
    version = PROJECT["version"]
    assert load("CITATION.cff")["version"] == version
    assert load("packaging/scverse/meta.yaml")["version"] == version
    assert load("packaging/conda/recipe.yaml")["context"]["version"] == version
    headings = re.findall(
        r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
    assert headings[0] == version


def test_citation_has_what_the_format_requires() -> None:
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == PROJECT["license"]
    article = citation["preferred-citation"]
    assert {"type", "title", "authors", "doi", "year"} <= set(article)
    assert all({"family-names", "given-names"} <= set(author) for author in article["authors"])


def test_scverse_entry_has_what_the_list_requires() -> None:
    entry = load("packaging/scverse/meta.yaml")
    required = {
        "name", "description", "project_home", "documentation_home", "install", "license", "tags",
        "version", "contact", "category",
    }  # fmt: skip
    assert required <= set(entry)
    assert entry["category"] == "ecosystem"
    assert len(set(entry["tags"])) == len(entry["tags"]) > 0
    assert entry["license"] == PROJECT["license"]
    assert entry["install"]["pypi"] == PROJECT["name"]
    assert all(re.fullmatch(r"10.\d{4,9}/\S+", doi) for doi in entry["publications"])


@pytest.fixture
def fill() -> Any:
    return runpy.run_path(str(PACKAGING / "publish_as.py"))


def test_one_command_puts_in_the_address(tmp_path: Path, fill: Any) -> None:
    if not with_placeholder():
        pytest.skip("the address has been put in")
    files = ["pyproject.toml", "CITATION.cff", *fill["WITH_PLACEHOLDER"]]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    fill["publish_as"]("Some-Lab", tmp_path)
    repository, site = (
        "https://github.com/Some-Lab/scalex-scvi",
        "https://some-lab.github.io/scalex-scvi/",
    )
    texts = {name: (tmp_path / name).read_text(encoding="utf-8") for name in files}
    assert not [name for name, text in texts.items() if "OWNER" in text]
    urls = tomllib.loads(texts["pyproject.toml"])["project"]["urls"]
    assert (urls["Repository"], urls["Documentation"]) == (repository, site)
    assert "Method" in urls
    citation = yaml.safe_load(texts["CITATION.cff"])
    assert (citation["repository-code"], citation["url"]) == (repository, site)
    entry, recipe, config = (yaml.safe_load(texts[name]) for name in fill["WITH_PLACEHOLDER"])
    assert (entry["project_home"], entry["documentation_home"]) == (repository, site)
    assert entry["contact"] == recipe["extra"]["recipe-maintainers"] == ["Some-Lab"]
    assert config["links"] == {"repository": repository, "documentation": site}
    with pytest.raises(SystemExit, match="filled in before"):
        fill["publish_as"]("other", tmp_path)


def with_placeholder() -> set[str]:
    texts = (path for path in PACKAGING.rglob("*") if path.suffix in {".yaml", ".yml", ".json"})
    return {str(path.relative_to(ROOT)) for path in texts if "OWNER" in path.read_text("utf-8")}


def test_all_addresses_are_put_in_or_none(fill: Any) -> None:
    assert with_placeholder() in (set(fill["WITH_PLACEHOLDER"]), set())
    urls = {"Repository", "Documentation"} <= set(PROJECT["urls"])
    assert urls == (not with_placeholder())


@pytest.mark.parametrize("owner", ["OWNER", "two words", "-lab", ""])
def test_no_account_is_refused(owner: str, tmp_path: Path, fill: Any) -> None:
    with pytest.raises(SystemExit, match="no account"):
        fill["publish_as"](owner, tmp_path)


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[ <>=\[;]", line)[0] for line in requirements}


def test_conda_recipe_has_the_dependencies_and_commands() -> None:
    recipe = load("packaging/conda/recipe.yaml")
    as_conda = {"torch": "pytorch", "igraph": "python-igraph", "matplotlib": "matplotlib-base",
                "seaborn": "seaborn-base"}  # fmt: skip
    wanted = {as_conda.get(name, name) for name in _names(PROJECT["dependencies"])}
    assert _names(recipe["requirements"]["run"]) == wanted | {"python"}
    commands = [f"{name} = {place}" for name, place in PROJECT["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == commands


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_the_makefile_has(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow[True]  # "on", which YAML 1.1 reads as true
    targets = set()
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        steps = job["steps"]
        assert all(("uses" in step) != ("run" in step) for step in steps)
        targets |= {t for step in steps for t in re.findall(r"make (\w+)", step.get("run", ""))}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_only_publishing_may_ask_for_an_identity() -> None:
    jobs = load(".github/workflows/release.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "permissions" not in jobs["build"]
    assert load(".github/workflows/release.yml")["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms(name: str) -> None:
    form = load(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids))


def test_open_problems_component(tmp_path: Path) -> None:
    """The script reads and writes what the benchmark's interface says."""
    folder = PACKAGING / "openproblems" / "scalex_scvi"
    config = yaml.safe_load((folder / "config.vsh.yaml").read_text(encoding="utf-8"))
    required = {"__merge__", "name", "label", "summary", "description", "references", "links",
                "info", "resources", "engines", "runners"}  # fmt: skip
    assert required <= set(config)
    assert config["name"] == folder.name
    # As Open Problems' component_tests/check_config.py asks.
    longest = {"name": 50, "label": 50, "summary": 400, "description": 5000}
    assert all(0 < len(config[key]) <= most for key, most in longest.items())
    assert {"repository", "documentation"} <= set(config["links"])
    assert config["info"]["preferred_normalization"] in {"counts", "log_cp10k"}
    (nextflow,) = (runner for runner in config["runners"] if runner["type"] == "nextflow")
    labels = " ".join(nextflow["directives"]["label"])
    for resource in ("time", "mem", "cpu"):
        assert re.search(rf"\b(low|mid|high|veryhigh){resource}\b", labels), resource

    adata = simulate_counts(200, 50)
    adata.layers["counts"] = adata.X.copy()
    del adata.X
    adata.var["hvg_score"] = np.arange(50.0)
    adata.uns |= {"dataset_id": "simulated", "normalization_id": "log_cp10k"}
    adata.write_h5ad(tmp_path / "dataset.h5ad")
    script = (folder / "script.py").read_text(encoding="utf-8")
    par = {"input": str(tmp_path / "dataset.h5ad"), "output": str(tmp_path / "out.h5ad")}
    par |= {argument["name"].removeprefix("--"): 20 for argument in config["arguments"]}
    head, rest = script.split("## VIASH START")
    injected = f"par = {par!r}\nmeta = {{'name': {config['name']!r}}}\n"
    (tmp_path / "script.py").write_text(head + injected + rest.split("## VIASH END")[1])
    # A short training, as the script's own takes half a minute.
    text = (tmp_path / "script.py").read_text()
    (tmp_path / "script.py").write_text(text.replace("train(", "train(max_steps=20, "))
    names = runpy.run_path(str(tmp_path / "script.py"))
    output = ad.read_h5ad(tmp_path / "out.h5ad")
    assert output.obsm["X_emb"].shape == (200, 10)
    assert list(output.obs_names) == list(adata.obs_names)
    assert output.uns["method_id"] == config["name"]
    assert output.uns["dataset_id"] == "simulated"
    assert list(names["model"].get_var_names()) == [f"gene{i}" for i in range(49, 29, -1)]

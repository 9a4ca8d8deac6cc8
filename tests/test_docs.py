"""The documentation names what there is, and its links lead somewhere.

`make docs` builds it, with warnings as errors; this finds most mistakes without sphinx.
"""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

import scalex_scvi as sx

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TUTORIALS = ROOT / "tutorials"
PAGES = [
    path
    for path in sorted([*DOCS.rglob("*.md"), ROOT / "CONTRIBUTING.md"])
    if not {"_build", "generated", "tutorials"} & set(path.relative_to(ROOT).parts)
]
API = (DOCS / "api.md").read_text(encoding="utf-8")
ROOMS = ["datasets", "io", "metrics", "module", "nn", "pl", "pp", "references", "tl", "train"]


def public_names(room: str) -> list[str]:
    return [name for name in import_module(f"scalex_scvi.{room}").__all__ if name[0] != "_"]


def documented(room: str) -> set[str]:
    """Names in the page's lists of a room."""
    where = f"scalex_scvi.{room}" if room else "scalex_scvi"
    names: set[str] = set()
    for block in API.split("```{eval-rst}")[1:]:
        head, _, after = block.partition("```")
        if re.search(rf"currentmodule:: {re.escape(where)}$", head, re.MULTILINE):
            names |= set(re.findall(r"^   ([\w.]+)$", head, re.MULTILINE))
            names |= set(re.findall(r"^- `(\w+)`", after, re.MULTILINE))
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_in_the_api(room: str) -> None:
    assert set(public_names(room)) == documented(room)


def own_members(cls: type) -> list[str]:
    """Public members that this package defines, not scvi-tools."""
    found = []
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        member = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        if name[0] != "_" and getattr(member, "__module__", "").startswith("scalex_scvi"):
            found.append(name)
    return found


def test_the_verbs_and_the_model_are_in_the_api() -> None:
    rooms = {*ROOMS, "cli", "model", "workflow"}
    verbs = {name for name in sx.__all__ if name not in rooms and name[0] != "_"}
    methods = {f"SCALEXModel.{name}" for name in own_members(sx.SCALEXModel)}
    assert verbs | methods == documented("")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_docstring(room: str) -> None:
    module = import_module(f"scalex_scvi.{room}")
    for name in public_names(room):
        member = getattr(module, name)
        if getattr(member, "__module__", "").startswith("scalex_scvi") and callable(member):
            assert inspect.getdoc(member), name
    for name in own_members(sx.SCALEXModel):
        assert inspect.getdoc(getattr(sx.SCALEXModel, name)), name


def code_that_is_run() -> str:
    """Of the page of examples and of the notebooks; tests/test_examples.py and _tutorials.py do."""
    page = (DOCS / "examples.md").read_text(encoding="utf-8")
    notebooks = [json.loads(path.read_text("utf-8")) for path in TUTORIALS.glob("*.ipynb")]
    cells = [cell for book in notebooks for cell in book["cells"] if cell["cell_type"] == "code"]
    code = re.findall(r"```\{code-cell\} python\n(.*?)```", page, re.DOTALL)
    return "\n".join(code + ["".join(cell["source"]) for cell in cells])


def is_refused(name: str) -> bool:
    module = getattr(getattr(sx.SCALEXModel, name), "__module__", "")
    return module.endswith("._refused")


def test_every_public_name_has_an_example_that_is_run() -> None:
    """All but constants and types, whose values the API shows, and what is refused."""
    code = code_that_is_run()
    wanted = [f"sx.{name}" for name in documented("") if "." not in name]
    for room in ROOMS:
        module = import_module(f"scalex_scvi.{room}")
        members = {name: getattr(module, name) for name in public_names(room)}
        code_of = (inspect.isclass, inspect.isfunction)
        wanted += [f"sx.{room}.{n}" for n, m in members.items() if any(is_(m) for is_ in code_of)]
    methods = [name for name in own_members(sx.SCALEXModel) if not is_refused(name)]
    without = {name for name in wanted if not re.search(rf"{re.escape(name)}\b", code)}
    # The verbs are in `sx` and in `sx.tl`.
    without -= {f"sx.tl.{verb}" for verb in ("integrate", "map_query", "label_transfer")}
    assert without == set()
    assert [name for name in methods if not re.search(rf"\.{name}\b", code)] == []


def anchors(path: Path) -> set[str]:
    """What a link after # may name: headings as GitHub and myst write them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```(?!{).*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    lines = set(re.findall(r"^([\w/*]+)$", index, re.MULTILINE))
    listed = {page.relative_to(DOCS) for line in lines for page in DOCS.glob(f"{line}.md")}
    pages = {page.relative_to(DOCS) for page in PAGES if DOCS in page.parents}
    assert pages - listed == {Path("index.md")}

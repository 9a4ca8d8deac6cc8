"""The documentation names what there is, and its links lead somewhere.

`make docs` builds it, with warnings as errors; this finds most mistakes without sphinx.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import scalex_scvi as sx

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
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


@pytest.mark.parametrize("room", ["datasets", "io", "metrics", "pl", "pp", "references", "tl"])
def test_every_public_function_has_an_example(room: str) -> None:
    examples = (DOCS / "examples.md").read_text(encoding="utf-8")
    module = import_module(f"scalex_scvi.{room}")
    functions = [n for n in public_names(room) if inspect.isfunction(getattr(module, n))]
    # What rooms of this package need of each other.
    others = {"batch_column", "rename_batches", "with_raw", "whole_numbers", "make_writable"}
    others |= {"paths_of", "read_h5ad", "on_device", "get_profile", "check_share_found"}
    others |= {"is_reference", "is_remote"}
    written = {name for name in functions if re.search(rf"sx\.(\w+\.)?{name}\(", examples)}
    assert set(functions) - written <= others


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

"""What may import what: docs/architecture.md as a test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import scalex_scvi

ROOT = Path(scalex_scvi.__file__).parent

# From the ground up. A room imports from those on its own floor and below.
FLOORS = [
    {"_core"},
    {"io", "datasets", "nn", "metrics"},
    {"pp", "module"},
    {"train"},
    {"model"},
    {"tl", "pl", "references"},
    {"workflow"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    """The package; modules that lie beside the packages are the workflow, or start the shell."""
    parts = path.relative_to(ROOT).parts
    if parts == ("__main__.py",):
        return "cli"
    return parts[0] if len(parts) > 1 else "workflow"


@cache
def nodes(path: Path) -> list[ast.AST]:
    """What a module consists of: read once, as many tests go through it."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[tuple[str, list[str], int]]:
    """Modules with their full names, what is imported of them, and the line."""
    package = ("scalex_scvi", *path.relative_to(ROOT).parts[:-1])
    for node in nodes(path):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, [], node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, [name.name for name in node.names], node.lineno


def ours(path: Path) -> Iterator[tuple[str, str, list[str], int]]:
    """Imports from another room of the package: the room, the module, the names, the line."""
    for module, names, line in imports(path):
        parts = module.split(".")
        if parts[0] != "scalex_scvi":
            continue
        if len(parts) == 1:
            for name in names:
                yield (name if name in FLOOR else "workflow"), f"{module}.{name}", [], line
        else:
            yield (parts[1] if parts[1] in FLOOR else "workflow"), module, names, line


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_a_room_imports_from_its_own_floor_and_below(path: Path) -> None:
    # The published name `load_data` has its place in io, and needs pp: it is loaded on use.
    if by_name(path) in ("__init__.py", "io/_load_data.py"):
        return
    above = [
        f"line {line}: {module}"
        for room, module, _, line in ours(path)
        if FLOOR[room] > FLOOR[room_of(path)]
    ]
    assert not above


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_no_private_name_of_another_room_is_imported(path: Path) -> None:
    own = room_of(path)
    private = []
    for room, module, names, line in ours(path):
        if room == own or room == "_core":
            continue
        inside = module.split(".")[2:] if room != "workflow" else []
        if any(name.startswith("_") for name in [*inside, *names]):
            private.append(f"line {line}: {module} {names}")
    assert not private


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_private_names_of_scvi_tools_are_imported_in_one_file(path: Path) -> None:
    if path == ROOT / "_core" / "scvi_private.py":
        return
    private = [
        f"line {line}: {module} {names}"
        for module, names, line in imports(path)
        if module.split(".")[0] == "scvi"
        and any(name.startswith("_") for name in [*module.split("."), *names])
    ]
    assert not private


def test_every_room_has_its_floor() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms == set(FLOOR) - {"workflow"}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in MODULES:
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef):
                yield f"{by_name(path)}:{node.name}", node


def test_no_function_is_longer_than_sixty_lines() -> None:
    """The docstring does not count."""
    long = {}
    for name, node in functions():
        body = node.body[1:] if ast.get_docstring(node) else node.body
        n_lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        if n_lines > 60:
            long[name] = n_lines
    assert set(long) <= {"workflow.py:SCALEX"}, long


# Functions whose parameters the published package or scvi-tools documents, by our names.
DOCUMENTED = {
    "workflow.py:SCALEX",
    "workflow.py:load_data",
    "pp/_preprocess.py:rna",
    "pp/_preprocess.py:atac",
    "pp/_preprocess.py:adt",
    "pp/_preprocess.py:preprocess",
    "pl/_meta.py:meta",
    "pl/_meta.py:meta_pair",
    "pl/_embedding.py:embedding",
    "metrics/_entropy.py:batch_entropy_mixing_score",
    "tl/_label_transfer.py:label_transfer",
    "tl/_label_scores.py:label_scores",  # the same arguments
    "model/_model.py:__init__",
    "module/_scalexvae.py:__init__",  # the same arguments
    "model/_model.py:setup_anndata",
    "model/_mudata.py:setup_mudata",  # the same arguments, and modalities
    "model/_latent.py:get_latent_representation",
    "model/_expression.py:get_normalized_expression",
    "model/_differential.py:differential_expression",
}


def test_no_function_takes_more_than_eight_arguments() -> None:
    many = {}
    for name, node in functions():
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([a for a in given if a.arg not in ("self", "cls", "ctx")])
        if count > 8 and name not in DOCUMENTED:
            many[name] = count
    assert not many

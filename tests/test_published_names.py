"""The table of published names: every name in it exists here, and so does every test."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TABLE = (ROOT / "docs" / "published_names.md").read_text(encoding="utf-8")

HEADERS = ("| published |", "| parameter |", "|---")
ROWS = [r for r in TABLE.splitlines() if r.startswith("|") and not r.startswith(HEADERS)]


@cache
def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_names_a_test(row: str) -> None:
    found = re.findall(r"`(tests/[^`]+\.py)::(\w+)`", row)
    assert found, "no test"
    for file, test in found:
        assert test in names_in(ROOT / file), f"{file} has no {test}"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`sx\.([\w.]+)", TABLE))))
def test_every_name_is_there(name: str) -> None:
    parts = name.split(".")
    for depth in range(len(parts), -1, -1):  # the longest importable module, then attributes
        try:
            found = importlib.import_module(".".join(["scalex_scvi", *parts[:depth]]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[depth:]:
            found = getattr(found, attribute)
        return
    raise AssertionError(name)


def test_every_file_that_is_named_is_there() -> None:
    for path in re.findall(r"`(tutorials/[^`]+)`", TABLE):
        assert (ROOT / path).exists(), path

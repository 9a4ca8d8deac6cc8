"""Sphinx: pages in Markdown, the API from docstrings, tutorials as they are committed."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

# The pages' code has little to do: threads would wait for one another.
for _threads in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

_project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
project = _project["name"]
author = "The scalex-scvi developers"
copyright = author
release = version = _project["version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints", "tutorials/README.md"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

# Pages with code are run at each build. The tutorials are run by the tests, and shown as committed.
nb_execution_mode = "force"
nb_execution_excludepatterns = ["tutorials/*"]
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = True
napoleon_google_docstring = False
# Ours are plain text; napoleon would take the first line for a type.
napoleon_custom_sections = ["Returns"]

html_theme = "sphinx_book_theme"
html_title = f"scalex-scvi {release}"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}


def _copy_tutorials() -> None:
    """Sphinx reads what is under this folder only."""
    shutil.rmtree(HERE / "tutorials", ignore_errors=True)
    shutil.copytree(ROOT / "tutorials", HERE / "tutorials", ignore=shutil.ignore_patterns(".*"))


def _without_empty_patterns(app: Any, docname: str, source: list[str]) -> None:
    """Pages may come and go: a pattern of the table of contents that finds none is no mistake."""
    if docname == "index":
        lines = source[0].splitlines()
        kept = [li for li in lines if not re.fullmatch(r"[\w/]+\*", li) or list(HERE.glob(li))]
        source[0] = "\n".join(kept)


def _name_what_is_outside(app: Any, docname: str, source: list[str]) -> None:
    """Links to files of the repository beside this folder become their names."""
    page = (HERE / docname).parent

    def named(link: re.Match[str]) -> str:
        target = (page / link[2]).resolve()
        if HERE in target.parents:
            return link[0]
        return f"{link[1]} (`{target.relative_to(ROOT)}` in the repository)"

    source[0] = re.sub(r"\[([^\]]+)\]\((\.\./[^)#]+)\)", named, source[0])


_EXAMPLES = re.findall(
    r"```\{code-cell\} python\n(.*?)```", (HERE / "examples.md").read_text("utf-8"), re.DOTALL
)


def _with_example(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Each page of the API shows the code of the examples' page that has its name."""
    _, *rooms, last = name.split(".")
    in_model = rooms == ["SCALEXModel"]
    path = re.escape(".".join([*rooms, last]).removeprefix("tl."))  # the verbs are in `sx`, too
    wanted = rf"\.{last}\b" if in_model else rf"\bsx\.(tl\.)?{path}\b"
    code = next((cell for cell in _EXAMPLES if re.search(wanted, cell)), None)
    if code is None or any(">>> " in line for line in lines):
        return
    code = re.sub(r"^:.*\n", "", code, flags=re.MULTILINE).strip()
    lines += ["", ".. rubric:: Example", "", "Run on the page of :doc:`examples </examples>`:", ""]
    lines += [".. code-block:: python", "", *(f"   {line}" for line in code.splitlines()), ""]


def setup(app: Any) -> None:
    _copy_tutorials()
    app.connect("autodoc-process-docstring", _with_example)
    app.connect("source-read", _without_empty_patterns)
    app.connect("source-read", _name_what_is_outside)

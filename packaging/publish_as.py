"""Put the address of the public repository into every file that has it.

Run once, when there is one: ``python packaging/publish_as.py ACCOUNT``. Until then ``OWNER`` stands
for the account on GitHub. With ``--sdist FILE`` the checksum of the released source archive goes
into the conda recipe; this is run for each release.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
WITH_PLACEHOLDER = (
    "packaging/scverse/meta.yaml",
    "packaging/conda/recipe.yaml",
    "packaging/openproblems/scalex_scvi/config.vsh.yaml",
)
RECIPE = "packaging/conda/recipe.yaml"
NO_URLS = "# The addresses of repository and documentation join these when they are public.\n"


def edit(path: Path, pattern: str, new: str) -> None:
    """Replace what a pattern finds, which has to be there."""
    text = path.read_text(encoding="utf-8")
    edited, n_found = re.subn(pattern, lambda _: new, text, flags=re.MULTILINE)
    if not n_found:
        msg = f"{path} has no {pattern!r}: it has been filled in before."
        raise SystemExit(msg)
    path.write_text(edited, encoding="utf-8")


def publish_as(owner: str, root: Path = ROOT) -> None:
    """Fill in the account, and add the addresses to the package's data and its citation."""
    if not re.fullmatch(r"[A-Za-z0-9](-?[A-Za-z0-9]){0,38}", owner) or owner == "OWNER":
        msg = f"{owner!r} is no account of GitHub: letters, digits and single hyphens."
        raise SystemExit(msg)
    repository = f"https://github.com/{owner}/scalex-scvi"
    site = f"https://{owner.lower()}.github.io/scalex-scvi/"
    for name in WITH_PLACEHOLDER:
        edit(root / name, r"https://OWNER\.github\.io/scalex-scvi/", site)
        edit(root / name, r"https://github\.com/OWNER/scalex-scvi", repository)
    for name in WITH_PLACEHOLDER[:2]:
        edit(root / name, r"\bOWNER\b", owner)  # who is asked
    urls = {"Repository": repository, "Documentation": site, "Issues": f"{repository}/issues"}
    urls["Changelog"] = f"{site}changelog.html"
    lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    edit(root / "pyproject.toml", f"^{NO_URLS}\\[project.urls\\]\n", f"[project.urls]\n{lines}")
    addresses = f"repository-code: {repository}\nurl: {site}\n"
    edit(root / "CITATION.cff", "^keywords:\n", f"{addresses}keywords:\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("owner", metavar="ACCOUNT", nargs="?", help="account on GitHub")
    parser.add_argument("--sdist", type=Path, help="released source archive, for the conda recipe")
    args = parser.parse_args()
    if args.owner is None and args.sdist is None:
        parser.error("give ACCOUNT, --sdist or both")
    if args.owner is not None:
        publish_as(args.owner)
    if args.sdist is not None:
        checksum = hashlib.sha256(args.sdist.read_bytes()).hexdigest()
        edit(ROOT / RECIPE, 'sha256: "[0-9a-f]{64}"', f'sha256: "{checksum}"')


if __name__ == "__main__":
    main()

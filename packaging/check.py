"""Check what other projects and services read of this repository against their schemas.

No network: the schemas come with check-jsonschema and rattler-build (extra ``dev``). ``make lint``
runs it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rattler_build import Stage0Recipe, VariantConfig

ROOT = Path(__file__).parent.parent
BY_SCHEMA = {
    "github-workflows": ".github/workflows/*.yml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "citation-file-format": "CITATION.cff",
}


def main() -> None:
    for schema, pattern in BY_SCHEMA.items():
        files = [str(path) for path in sorted(ROOT.glob(pattern))]
        argv = ["--quiet", "--builtin-schema", f"vendor.{schema}", *files]
        subprocess.run([sys.executable, "-m", "check_jsonschema", *argv], check=True)
        print(f"{schema}: {len(files)} valid")
    recipe = Stage0Recipe.from_file(str(ROOT / "packaging" / "conda" / "recipe.yaml"))
    (variant,) = recipe.render(VariantConfig())
    print(f"conda recipe: valid, {variant.recipe}")


if __name__ == "__main__":
    main()

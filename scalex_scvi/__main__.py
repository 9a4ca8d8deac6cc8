"""``python -m scalex_scvi``."""

import sys

from scalex_scvi.cli import main

sys.exit(main())

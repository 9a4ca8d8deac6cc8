"""``python -m scalex_scvi.cli``."""

import sys

from . import main

sys.exit(main())

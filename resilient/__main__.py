"""`python -m resilient` is the command `resilient`."""

from __future__ import annotations

import sys

from resilient.cli import main

sys.exit(main())

#!/usr/bin/env python
"""Compare our systems with reference cases; see `tests/conformance/command.py`.

python tools/check_reference.py ../shared/reference/san/public-*.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from twostage.errors import run_cli

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from conformance.command import main

    run_cli(main)

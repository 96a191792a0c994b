#!/usr/bin/env python
"""Compare our systems with reference cases; see `tests/conformance/command.py`.

python tools/check_reference.py ../shared/reference/san/public-*.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from twostage.errors import run_cli


def main() -> None:
    """The command of the harness, which lies beside the product."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from conformance.command import main as check

    check()


if __name__ == "__main__":
    run_cli(main)

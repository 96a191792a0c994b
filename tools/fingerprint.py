#!/usr/bin/env python
"""Prove that a refactor leaves every toybox system bit-identical; see `tests/conformance/fingerprint.py`.

    python tools/fingerprint.py --output before.json           # before the change
    python tools/fingerprint.py --compare before.json          # after it, on the same machine
    python tools/fingerprint.py --compare before.json san sed  # these configs of configs/toybox/ alone

Prints what differs; exit code 1 then.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run the harness, which lies beside the product."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="names under configs/toybox/; default: all")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--output", metavar="FILE.json", help="write the fingerprints")
    task.add_argument("--compare", metavar="FILE.json", help="compare with those of another run")
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    # Imported only now, so that --help needs no torch.
    from conformance.fingerprint import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

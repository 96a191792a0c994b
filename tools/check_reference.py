#!/usr/bin/env python
"""Compare our systems with reference cases: seeded runs of the authors' code; the harness is `tests/conformance/`.

    python tools/check_reference.py ../shared/reference/san/public-*.json

Prints a table per case, then what of it could not be compared; exit code 1 when an array is beyond tolerance or nothing was
compared, 2 when a case can't be read. A case that does not match on one thread is run again on two, since the stored runs
were made on either (`REFERENCE_THREADS`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run the harness, which lies beside the product."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="CASE.json")
    parser.add_argument("--failed-only", action="store_true", help="list only arrays beyond tolerance")
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    # Imported only now, so that --help needs no torch.
    from conformance.command import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

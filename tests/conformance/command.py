"""Compare our systems with reference cases: seeded runs of the authors' code.

    python tools/check_reference.py ../shared/reference/san/public-*.json

Prints a table per case, then what of it could not be compared; exit code 1 when an array is beyond tolerance or nothing was
compared, 2 when a case can't be read. A case that does not match on one thread is run again on two, since the stored runs
were made on either (`REFERENCE_THREADS`).
"""

from __future__ import annotations

import argparse
import gc
import sys
import time

from conformance.case import Case
from conformance.comparison import format_comparisons
from conformance.running import run, system_of


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="CASE.json")
    parser.add_argument("--failed-only", action="store_true", help="list only arrays beyond tolerance")
    args = parser.parse_args()
    failed = []
    for path in args.cases:
        start = time.perf_counter()
        case = Case.read(path)
        outcome = run(case)
        print(f"\n{path}: {system_of(case)} {case.meta.get('variant', '')} {case.meta.get('kind', '')}")
        print(format_comparisons(outcome.failures if args.failed_only else outcome.rows))
        for line in outcome.left_out:
            print(line)
        matching = len(outcome.rows) - len(outcome.failures)
        minutes = (time.perf_counter() - start) / 60
        partly = ", the case only partly compared" if any("arrays" in line for line in outcome.left_out) else ""
        print(
            f"{matching} of {len(outcome.rows)} match (threads: {outcome.threads}, minutes: {minutes:.1f}){partly}"
            if outcome.compared_something
            else "nothing was compared"
        )
        if not outcome.passed:
            failed.append(path)
        gc.collect()
    print(f"\n{len(args.cases) - len(failed)} of {len(args.cases)} cases match")
    if failed:
        print("do not match: " + ", ".join(map(str, failed)))
        sys.exit(1)

"""Compare our systems with reference cases: seeded runs of the authors' code; see `tools/check_reference.py`."""

from __future__ import annotations

import argparse
import gc
import sys
import time

from conformance.case import Case
from conformance.comparison import format_comparisons
from conformance.running import run, system_of


def run_from_arguments(args: argparse.Namespace) -> None:
    """Compare the cases and print their tables; leaves with exit code 1 where one does not match."""
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

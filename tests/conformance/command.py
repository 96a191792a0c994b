"""Compare our systems with reference cases: seeded runs of the authors' code.

    python tools/check_reference.py ../shared/reference/san/public-*.json

Prints a table per case; exit code 1 when an array is beyond tolerance, 2 when a case can't be read. A case that does not
match on one thread is run again on two, since the stored runs were made on either (`REFERENCE_THREADS`).
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys

from conformance.case import Case, check_on_threads, format_comparisons
from twostage.errors import UserError, near_names

# A case's "system" -> module with `check(case)`.
_RUNNERS = {
    "CAT-Seg": "conformance.catseg",
    "catseg": "conformance.catseg",
    "FC-CLIP": "conformance.fcclip",
    "Mask2Former training": "conformance.mask2former",
    "ODISE": "conformance.odise",
    "ODISE training": "conformance.odise",
    "Mask2Former": "conformance.mask2former",
    "MaskCLIP": "conformance.training_free",
    "MaskCLIP+": "conformance.maskclip_plus",
    "NACLIP": "conformance.training_free",
    "SED": "conformance.sed",
    "ovseg": "conformance.ovseg",
    "SAN": "conformance.san",
    "SCLIP": "conformance.training_free",
    "SCAN": "conformance.scan",
    "SCAN training": "conformance.scan",
    "SegCLIP": "conformance.segclip",
}


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="CASE.json")
    parser.add_argument("--failed-only", action="store_true", help="list only arrays beyond tolerance")
    args = parser.parse_args()
    failed = []
    for path in args.cases:
        case = Case.read(path)
        # Cases of a part of a system say so behind its name.
        system = case.meta["system"].partition(" repo ")[0]
        if system not in _RUNNERS:
            raise UserError(f"case '{path}' is for {system!r}, which has no runner here{near_names(system, _RUNNERS)}")
        rows, threads = check_on_threads(importlib.import_module(_RUNNERS[system]).check, case)
        wrong = [row for row in rows if not row.passed]
        print(f"\n{path}: {system} {case.meta.get('variant', '')} {case.meta.get('kind', '')}")
        print(format_comparisons(wrong if args.failed_only else rows))
        print(f"{len(rows) - len(wrong)} of {len(rows)} match (threads: {threads})")
        if wrong:
            failed.append(path)
        gc.collect()
    print(f"\n{len(args.cases) - len(failed)} of {len(args.cases)} cases match")
    if failed:
        print("do not match: " + ", ".join(map(str, failed)))
        sys.exit(1)

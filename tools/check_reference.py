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

import twostage.systems  # noqa: F401
from twostage.checkpoint.reference import Case, check_on_threads, format_comparisons
from twostage.errors import UserError, near_names, run_cli

# A case's "system" -> module with `check(case)`.
_RUNNERS = {
    "CAT-Seg": "twostage.systems.one_stage.catseg.reference",
    "catseg": "twostage.systems.one_stage.catseg.reference",
    "FC-CLIP": "twostage.systems.two_stage.fcclip.reference",
    "Mask2Former training": "twostage.systems.two_stage.mask2former.reference",
    "Mask2Former": "twostage.systems.two_stage.mask2former.reference",
    "MaskCLIP": "twostage.systems.training_free.reference",
    "MaskCLIP+": "twostage.systems.training_free.maskclip_plus.reference",
    "NACLIP": "twostage.systems.training_free.reference",
    "SED": "twostage.systems.one_stage.sed.reference",
    "ovseg": "twostage.systems.two_stage.ovseg.reference",
    "SAN": "twostage.systems.two_stage.san.reference",
    "SCLIP": "twostage.systems.training_free.reference",
    "SCAN": "twostage.systems.two_stage.scan.reference",
    "SCAN training": "twostage.systems.two_stage.scan.reference",
    "SegCLIP": "twostage.systems.one_stage.segclip.reference",
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


if __name__ == "__main__":
    run_cli(main)

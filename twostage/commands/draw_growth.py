"""How time and memory grow, as one picture; see `tools/draw_growth.py`."""

from __future__ import annotations

import argparse

from twostage.benchmark.growth import draw_growth, read_points
from twostage.files import check_writable


def run_from_arguments(args: argparse.Namespace) -> None:
    """Draw the files that the arguments name.

    Raises:
        UserError: a file that `tools/benchmark.py --json` did not write, or nothing that grows in them.
    """
    check_writable(args.output.parent)
    draw_growth(read_points(args.files), args.output)
    print(f"wrote {args.output}")

#!/usr/bin/env python
"""What `make demo` shows: a toy SAN learns seen classes and is asked for unseen ones.

    python tools/make_demo.py --output output/demo

Trains SAN on toybox, evaluates it on `toybox_val_open`, evaluates untrained dense CLIP on the same images, prints both in
one table and writes metrics.json, pictures/, report.html and, last of all, summary.json (mIoU in percent).
"""

from __future__ import annotations

from twostage.commands.tool_arguments import make_demo_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = make_demo_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.make_demo import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

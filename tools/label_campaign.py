#!/usr/bin/env python
"""A trial of `twostage label`: many toybox pictures in one go, with kills, and on Ray; all rows must be the same.

    python tools/label_campaign.py --pictures 10000 --kills 10 --output output/campaign

Writes the pictures as tar shards, a few of them broken, labels them in a process of their own per run, and prints seconds,
pictures per second, the memory of the largest process at five points (Linux), and a hash of the rows. --ray adds a run on
Ray. A trial that was stopped goes on with the same command.
"""

from __future__ import annotations

from twostage.commands.tool_arguments import label_campaign_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = label_campaign_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.label_campaign import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

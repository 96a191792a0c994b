#!/usr/bin/env python
"""Processor time of embedding a dataset's names, with prompts that share their beginning and without.

    python tools/text_speed.py --clip ViT-B-16 --dataset ade20k_847_val --every 16

Random weights; the time does not depend on them. `--every 16` embeds all names in each 16th of ImageNet's 80 templates and
says what all would take. The plain way, whole padded prompts, is timed on `--plain` names.
"""

from __future__ import annotations

import argparse

from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="ViT-B-16", metavar="NAME")
    parser.add_argument("--dataset", default="ade20k_847_val", metavar="NAME", help="whose names")
    parser.add_argument("--every", type=int, default=16, metavar="N", help="take each N-th template")
    parser.add_argument("--plain", type=int, default=64, metavar="N", help="names that are embedded the plain way, too")
    args = parser.parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.text_speed import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

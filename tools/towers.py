#!/usr/bin/env python
"""Which text-aligned towers of open_clip serve as dense ones: one picture and three names through each, with random weights.

    python tools/towers.py ViT-B-16 ViT-B-16-SigLIP2 PE-Core-B-16 ViTamin-B EVA02-B-16

Prints per tower its parameters, the grid of a picture of its own size, processor seconds of picture and names, the peak memory
of its process, and whether it runs. Random weights; neither time nor memory depends on them.
"""

from __future__ import annotations

import argparse

from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("towers", nargs="+", metavar="NAME", help="names of open_clip, as in MODEL.CLIP.NAME")
    parser.add_argument("--alone", action="store_true", help="the first one in this process, as JSON")
    args = parser.parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.towers import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

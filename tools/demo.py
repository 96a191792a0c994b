#!/usr/bin/env python
"""Segment pictures with words of your own.

    python tools/demo.py --config-file configs/san_vitb.yaml --input a.jpg photos/ --vocabulary "cat, sofa" \\
        --output out/ MODEL.WEIGHTS san_vit_b_16.pth

Names are separated by commas; where a name holds synonyms, separate names by semicolons ("cat; sofa, couch"), or give a
file (.txt, one class per line), a dataset (`ade20k_150_val`) or a dataset folder of your own. Writes
<picture>_overlay.png and <picture>_labels.png and prints what covers how much.
With --things "cat" (names of the vocabulary that come as countable objects; for systems that predict masks) also writes
panoptic segments: <picture>_panoptic.png, <picture>_segments.png and <picture>_segments.json.
"""

from __future__ import annotations

from twostage.commands.arguments.pictures import demo_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = demo_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.segment import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

#!/usr/bin/env python
"""What each training-free attention sees in one scene, as one picture.

    python tools/draw_attention.py --config-file configs/toybox/maskclip.yaml --dataset toybox_val_open --index 3 \\
        --output attention.png

Panels: the image, the label map of every method (`MODEL.TRAINING_FREE.METHOD`, each with the last block as published) and
the ground truth, with the mIoU over the classes present in the image.
"""

from __future__ import annotations

from twostage.commands.tool_arguments import draw_attention_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = draw_attention_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.draw_attention import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

#!/usr/bin/env python
"""Train a tiny toybox CLIP from captions only, and measure it: the shipped weights come from here.

    python tools/train_toy_clip.py --model toybox-vit
    python tools/train_toy_clip.py --model toybox-convnext

writes `twostage/clip/weights/<model>.safetensors` (half precision, open_clip's names) and prints its accuracies.
"""

from __future__ import annotations

from twostage.commands.tool_arguments import train_toy_clip_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = train_toy_clip_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.train_toy_clip import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

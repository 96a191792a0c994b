#!/usr/bin/env python
"""Train toybox's tiny self-supervised ViT, whose affinities training-free systems borrow; the shipped weights come from here.

    python tools/train_toy_vit.py

writes `toybox-vits8.safetensors` (half precision). Pictures are those of `toybox_scene_captions`; no caption or mask is read.
"""

from __future__ import annotations

from twostage.commands.tool_arguments import train_toy_vit_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = train_toy_vit_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.train_toy_vit import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

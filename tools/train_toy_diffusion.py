#!/usr/bin/env python
"""Train the narrow latent-diffusion model that ODISE runs on at toy size; the shipped weights come from here.

    python tools/train_toy_diffusion.py

writes `toybox-diffusion.safetensors` (half precision; autoencoder and UNet up to the last map that ODISE reads, and the
tiny CLIP's tokens of the empty prompt). Pictures and captions are those of `toybox_scene_captions`; no mask is read.
"""

from __future__ import annotations

from twostage.commands.tool_arguments import train_toy_diffusion_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = train_toy_diffusion_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.train_toy_diffusion import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

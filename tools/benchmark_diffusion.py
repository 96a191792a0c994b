#!/usr/bin/env python
"""ODISE's diffusion model up to its last tap beside the whole published graph, in one run.

    python tools/benchmark_diffusion.py --crops 1 --repeats 1

Both see the same crops of 512 pixels with the same random weights. The whole graph is what the authors' code runs for a
crop: autoencoder both ways, the whole UNet, and Stable Diffusion's text encoder on the empty prompt. Ours is walked twice:
one crop at a time, and all together. Prints median seconds and the process' peak memory after each.
"""

from __future__ import annotations

from twostage.commands.tool_arguments import benchmark_diffusion_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = benchmark_diffusion_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.benchmark_diffusion import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

#!/usr/bin/env python
"""Train or evaluate a system.

    python tools/train_net.py --config-file configs/toybox/san.yaml
    python tools/train_net.py --config-file configs/san_vitb.yaml --eval-only MODEL.WEIGHTS san_vit_b_16.pth
    python tools/train_net.py --config-file configs/san_vitb.yaml --resume --num-gpus 8
    torchrun --nproc-per-node 8 tools/train_net.py --config-file configs/san_vitb.yaml

Everything after the options is config: `KEY VALUE` pairs. `--num-gpus N` on a machine without a GPU starts N processes
on the CPU. Results are printed as a Markdown table; metrics.json, log.txt, checkpoints and TensorBoard files go to
OUTPUT_DIR.
"""

from __future__ import annotations

from twostage.commands.arguments.learning import train_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = train_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.train import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

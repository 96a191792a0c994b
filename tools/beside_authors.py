#!/usr/bin/env python
"""Our system beside the authors' own code, on the same weights, in one process taking turns (`docs/conformance.md`).

    OMP_NUM_THREADS=1 python tools/beside_authors.py --system san_vitb --code /tmp/authors/SAN --packages /tmp/authors/pinned \\
        --classes 150 847 --turns 3

Both sides get the same seeded weights, through the table that reads published checkpoints, the same picture of smooth noise and
the same random text embeddings, made beforehand. Prints, per number of classes, processor and wall seconds (median of --turns),
theirs over ours (lowest and highest), the memory that each adds, and the share of equal labels of the two label maps; with
--training BATCH losses and gradient norm of a step on so many pictures of --size.

The authors' code is imported from --code and needs upstream Detectron2; --packages holds the open_clip and timm that it asks for,
where they are older than ours: `pip install --no-deps --target DIR open_clip_torch==2.16.0`.
--alone runs one side only: theirs with glibc's thresholds as they are, since their programs do not set them (ours do).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from twostage.allocator import KEEP
from twostage.commands.arguments import add_config, add_overrides, positive
from twostage.commands.parser import Parser
from twostage.errors import run_cli
from twostage.machine import expand_home, user_path


def main() -> None:
    """Parse the command line and run the harness, which lies beside the product."""
    parser = Parser(__doc__)
    add_config(parser)
    parser.add_argument("--code", type=user_path, metavar="FOLDER", help="a clone of the authors' repository")
    parser.add_argument(
        "--packages", type=user_path, metavar="FOLDER", help="open_clip and timm as their code asks for"
    )
    parser.add_argument("--size", default="640x854", help="of the picture, or of the training crops, height x width")
    parser.add_argument("--output-size", default="512x683", help="of the label map")
    parser.add_argument("--classes", type=positive, nargs="+", default=[150])
    parser.add_argument("--turns", type=positive, default=3)
    parser.add_argument("--training", type=positive, metavar="BATCH", help="a training step of BATCH pictures")
    parser.add_argument("--alone", choices=("ours", "theirs"), help="this side only, in a process of its own")
    parser.add_argument("--json", type=expand_home, metavar="FILE", help="write all figures")
    add_overrides(parser)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    # Imported only now, so that --help needs no torch.
    from conformance.authors.command import run_from_arguments

    run_from_arguments(args)


def _leave_allocator() -> None:
    """Keep glibc as it is where only theirs runs, which has to be known before anything else happens."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--alone", nargs="?")
    if early.parse_known_args()[0].alone == "theirs":
        os.environ[KEEP] = "0"


if __name__ == "__main__":
    _leave_allocator()
    run_cli(main)

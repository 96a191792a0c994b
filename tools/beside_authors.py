#!/usr/bin/env python
"""Our system beside the authors' own code: one process, taking turns, on the same weights (`docs/conformance.md`).

    OMP_NUM_THREADS=1 python tools/beside_authors.py --system san_vitb --code /tmp/authors/SAN \\
        --packages /tmp/authors/pinned --classes 150 847 --turns 3

Both sides get the same seeded weights, through the table that reads published checkpoints, the same picture of smooth noise
and the same random text embeddings, made beforehand. Prints per number of classes processor and wall seconds (medians),
theirs over ours (lowest and highest of the turns), the memory that each adds, the share of equal labels of the two label
maps, and how far their scores lie apart; with --training BATCH a step on so many pictures of --size: losses and gradient
norm in place of labels.

The authors' code is imported from --code and needs upstream Detectron2; --packages holds the open_clip that it asks for,
where that is older than ours: `pip install --no-deps --target FOLDER open_clip_torch==2.16.0`.
--alone runs one side only: theirs with glibc's thresholds as they are, since their programs do not set them (ours do).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from twostage.allocator import KEEP
from twostage.commands.arguments.parts import add_overrides, positive
from twostage.commands.parser import Parser
from twostage.errors import run_cli
from twostage.machine import expand_home, user_path


def main() -> None:
    """Parse the command line and run the harness, which lies beside the product."""
    parser = Parser(__doc__)
    parser.add_argument("--system", required=True, metavar="SYSTEM", help="a config's name or file")
    parser.add_argument("--code", type=user_path, metavar="FOLDER", help="a clone of the authors' repository")
    parser.add_argument("--packages", type=user_path, metavar="FOLDER", help="open_clip and timm for their code")
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


def leave_allocator(words: Sequence[str]) -> None:
    """Where the command line `words` runs theirs alone, let this process not keep freed memory.

    To be called before `run_cli`, which otherwise sets glibc's thresholds.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--alone", nargs="?")
    if early.parse_known_args(words)[0].alone == "theirs":
        os.environ[KEEP] = "0"


if __name__ == "__main__":
    leave_allocator(sys.argv[1:])
    run_cli(main)

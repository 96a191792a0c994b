#!/usr/bin/env python
"""Datasets: what there is, labels from the original downloads, and checks of what lies on disk.

    python tools/prepare_datasets.py list [NAME]
    python tools/prepare_datasets.py prepare ade20k_150 --source downloads/
    python tools/prepare_datasets.py verify A-847
    python tools/prepare_datasets.py prepare path/to/my_folder     (its colour labels become class indices)
    python tools/prepare_datasets.py verify path/to/my_folder

NAME is a benchmark, any registered name of it, or what papers call it. Everything goes under $DETECTRON2_DATASETS (default:
datasets/). Labels that exist already are kept, so a stopped `prepare` goes on where it was.
"""

from __future__ import annotations

from twostage.commands.arguments.datasets import prepare_datasets_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = prepare_datasets_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.prepare_datasets import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

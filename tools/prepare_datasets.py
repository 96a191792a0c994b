"""Make labels in the layout twostage reads, from the original downloads.

    python tools/prepare_datasets.py list
    python tools/prepare_datasets.py prepare coco_stuff --source stuffthingmaps_trainval2017/
    python tools/prepare_datasets.py prepare toybox

Everything goes under $DETECTRON2_DATASETS (default: datasets/).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from twostage.config import datasets_root
from twostage.data.coco_stuff import prepare_coco_stuff
from twostage.data.toybox.dataset import ensure_toybox
from twostage.errors import UserError, run_cli

_DATASETS = {
    "coco_stuff": "COCO-Stuff-171, from stuffthingmaps_trainval2017.zip; images train2017/ and val2017/ go to coco/",
    "toybox": "the embedded procedural benchmark; needs no source, also writes itself on first use",
}


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what can be prepared")
    prepare = commands.add_parser("prepare", help="make the labels of a dataset")
    prepare.add_argument("name", choices=sorted(_DATASETS))
    prepare.add_argument("--source", metavar="DIR", help="the unpacked original download")
    prepare.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if args.command == "list":
        for name, what in _DATASETS.items():
            print(f"{name:12} {what}")
        return
    if args.name == "toybox":
        print(f"toybox is in '{ensure_toybox(datasets_root())}'")
        return
    if args.source is None:
        raise UserError(f"prepare {args.name} needs --source DIR: {_DATASETS[args.name]}")
    counts = prepare_coco_stuff(Path(args.source), workers=args.workers)
    print("labels: " + ", ".join(f"{split} {count}" for split, count in counts.items()))


if __name__ == "__main__":
    run_cli(main)

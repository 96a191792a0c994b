#!/usr/bin/env python
"""Evaluate a system on many datasets in one go.

    python tools/evaluate.py --config-file configs/san_vitb.yaml --datasets five MODEL.WEIGHTS san_vit_b_16.pth
    python tools/evaluate.py --config-file configs/toybox/san.yaml --datasets toybox_val_open toybox_val_large --report
    python tools/evaluate.py --list systems.yaml --datasets toybox_val_open OUTPUT_DIR output/all

Datasets are registered names, what papers call a benchmark ("A-150", "PAS-20b"), "five" (A-847, PC-459, A-150, PC-59,
PAS-20) or "all"; without --datasets, DATASETS.TEST. The model is loaded once, each vocabulary embedded once. Everything
goes to OUTPUT_DIR: results.md (the table, next to published figures), inference/results-<dataset>.json (all figures, with
config, hashes, versions, time and memory) and, with --report, report-<dataset>.html. A killed evaluation goes on with
--resume. With --list (`twostage/commands/evaluate_list.py` says how it looks), every system of the list is evaluated in a
process of its own; table.md has seen, unseen, harmonic mean, seconds and peak memory of each, pictures-<dataset>.html the
same five pictures by all side by side. More figures by config: TEST.BOUNDARY_IOU True, TEST.PANOPTIC True, TEST.ORACLES True.
"""

from __future__ import annotations

from twostage.commands.arguments.learning import evaluate_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = evaluate_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.evaluate import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

#!/usr/bin/env python
"""Evaluate a system on many data sets in one go.

    python tools/evaluate.py --config-file configs/san_vitb.yaml --datasets five MODEL.WEIGHTS san_vit_b_16.pth
    python tools/evaluate.py --config-file configs/toybox/san.yaml --datasets toybox_val_open toybox_val_large --report

Data sets are registered names, what papers call a benchmark ("A-150", "PAS-20b"), "five" (A-847, PC-459, A-150, PC-59,
PAS-20) or "all"; without --datasets, DATASETS.TEST. The model is loaded once, each vocabulary embedded once. Everything
goes to OUTPUT_DIR: results.md (the table, next to published figures), inference/results-<dataset>.json (all figures, with
config, hashes, versions, time and memory) and, with --report, report-<dataset>.html. A killed evaluation goes on with
--resume. More figures by config: TEST.BOUNDARY_IOU True, TEST.PANOPTIC True, TEST.ORACLES True.
"""

from __future__ import annotations

import argparse

import twostage  # noqa: F401  (first: makes torchvision importable on CPU-only torch)
from twostage.commands.evaluate import benchmark_config, evaluate_benchmarks
from twostage.commands.launch import launch
from twostage.errors import run_cli
from twostage.machine import expand_home


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, type=expand_home)
    parser.add_argument("--datasets", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--name", default="", help="of the system in tables and reports; default: its architecture")
    parser.add_argument("--report", action="store_true", help="write an HTML report per data set (predicts twice)")
    parser.add_argument("--resume", action="store_true", help="go on with a stopped evaluation in OUTPUT_DIR")
    parser.add_argument("--skip-broken", action="store_true", help="leave out and list images with broken files")
    parser.add_argument("--skip-missing", action="store_true", help="leave out data sets that are not on this machine")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes; without GPUs on the CPU")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args()
    # `--datasets a b KEY VALUE`: keys are upper case and hold a dot, which no data set's name does.
    first_key = next((i for i, word in enumerate(args.datasets) if word.isupper() and "." in word), len(args.datasets))
    args.opts = args.datasets[first_key:] + args.opts
    args.datasets = args.datasets[:first_key]
    cfg = benchmark_config(args)
    launch(evaluate_benchmarks, processes=args.num_gpus, device=cfg.MODEL.DEVICE, args=(cfg, args))


if __name__ == "__main__":
    run_cli(main)

"""Our system beside the authors' code; see `tools/beside_authors.py`."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

import conformance.authors.systems
from conformance.authors.building import build
from conformance.authors.clone import check_clone
from conformance.authors.contract import Authors
from conformance.authors.measuring import measure, table
from twostage.config import load_config
from twostage.config.finding import find_config
from twostage.errors import UserError
from twostage.files import write_text
from twostage.sizes import parse_size

# Every tensor comes from the seed, and nothing random may get into the cache of embeddings.
_SEEDED = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", "")


def run_from_arguments(args: argparse.Namespace) -> None:
    """Build both sides, let them take turns, print the tables and write the file that the arguments ask for.

    Raises:
        UserError: a system without a counterpart here, no clone, something that is not installed, or settings that differ.
    """
    size, output = parse_size(args.size, "--size"), parse_size(args.output_size, "--output-size")
    if args.training and len(args.classes) > 1:
        raise UserError("--training takes one number of classes, for which models are built; give one")
    config = find_config(args.system)
    cfg = seeded_config(config, args.opts)
    authors = authors_of(cfg)
    if args.alone != "ours":
        check_clone(authors, args.code)
    models = build(
        cfg, authors, classes=args.classes, training=bool(args.training), alone=args.alone, code=args.code,
        packages=args.packages,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for classes in args.classes:
        sides = models.steps(classes, size, args.training) if args.training else models.pictures(classes, size, output)
        rows.append({"classes": classes, **measure(sides, args.turns)})
        print(f"\n{Path(config).stem}\n{table(rows[-1])}", flush=True)
    if args.json:
        setting = {
            "system": args.system, "repository": authors.repository, "size": args.size, "output size": args.output_size,
            "training": args.training, "alone": args.alone, "overrides": args.opts, "turns": args.turns,
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        write_text(args.json, json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")


def seeded_config(config: str, opts: list[str]) -> CfgNode:
    """Our config for random weights, with the activation that its pretrained CLIP would bring."""
    keys = load_config(config, opts).MODEL.CLIP
    openai = keys.PRETRAINED == "openai" and keys.QUICK_GELU == "auto"
    return load_config(config, [*_SEEDED, *(["MODEL.CLIP.QUICK_GELU", "on"] if openai else []), *opts])


def authors_of(cfg: CfgNode) -> Authors:
    """The authors' code for the system of a config. Raises UserError where there is none here."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    name = cfg.MODEL.TRAINING_FREE.METHOD if architecture == "TrainingFree" else architecture.lower()
    found = {entry.name for entry in pkgutil.iter_modules(conformance.authors.systems.__path__)}
    if name not in found:
        raise UserError(
            f"{name!r} is not compared with its authors' code by this tool; these are: {', '.join(sorted(found))}"
        )
    module: Any = importlib.import_module(f"conformance.authors.systems.{name}")
    return module.AUTHORS

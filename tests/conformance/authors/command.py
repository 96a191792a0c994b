"""Our system beside the authors' code; see `tools/beside_authors.py`."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import pkgutil
import warnings
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

import conformance.authors.systems
from conformance.authors.clone import check_clone, opened
from conformance.authors.contract import Authors, Request
from conformance.authors.copying import copy_weights, seed_weights
from conformance.authors.feeding import entry, random_text, records, words
from conformance.authors.measuring import measure, table
from conformance.authors.sides import Side, our_picture, their_picture, training_side
from twostage.commands.benchmark import parse_size
from twostage.config import load_config
from twostage.errors import UserError
from twostage.files import write_text
from twostage.recomputation import recompute_activations
from twostage.systems.building import build_model

# Every tensor comes from the seed, and nothing random may get into the cache of embeddings.
_SEEDED = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", "")


def run_from_arguments(args: argparse.Namespace) -> None:
    """Build both sides, let them take turns, print the table and write the file that the arguments ask for.

    Raises:
        UserError: a system without a counterpart here, no clone, something that is not installed, or settings that differ.
    """
    size, output = parse_size(args.size), parse_size(args.output_size)
    if args.training and len(args.classes) > 1:
        raise UserError("--training takes one number of classes: the models are built for it")
    cfg = load_config(args.config_file, [*_SEEDED, *args.opts])
    authors = authors_of(cfg)
    if args.alone != "ours":
        if args.code is None:
            raise UserError(f"--code is missing: the folder of a clone of https://github.com/{authors.repository}")
        check_clone(authors, args.code)
    rows = []
    for classes, sides in _sides(args, cfg, authors, size, output):
        rows.append({"classes": classes, **measure(sides, args.turns)})
        print(f"\n{Path(args.config_file).stem}\n{table(rows[-1])}", flush=True)
        del sides
    if args.json:
        setting = {
            "system": Path(args.config_file).stem, "repository": authors.repository, "size": args.size,
            "output size": args.output_size, "training": args.training, "alone": args.alone, "overrides": args.opts,
            "threads": torch.get_num_threads(), "turns": args.turns,
        }  # fmt: skip
        write_text(args.json, json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")


def authors_of(cfg: CfgNode) -> Authors:
    """The authors' code for the architecture of a config. Raises UserError where there is none here."""
    found = {entry.name for entry in pkgutil.iter_modules(conformance.authors.systems.__path__)}
    name = cfg.MODEL.META_ARCHITECTURE.lower()
    if name not in found:
        raise UserError(
            f"{cfg.MODEL.META_ARCHITECTURE!r} is not compared with its authors' code here; these are: "
            f"{', '.join(sorted(found))} (tests/conformance/authors/systems)"
        )
    module: Any = importlib.import_module(f"conformance.authors.systems.{name}")
    return module.AUTHORS


def _sides(args: argparse.Namespace, cfg: CfgNode, authors: Authors, size: Any, output: Any) -> Any:
    """Per number of classes the sides that run; a side that does not is freed before anything is measured."""
    torch.manual_seed(0)
    ours = build_model(cfg).train(bool(args.training))
    model_table = ours.checkpoint_table()
    official = seed_weights(ours, model_table)
    texts = {classes: random_text(ours, words(classes)) for classes in args.classes}
    theirs: Any = None
    if args.alone != "ours":
        request = Request(
            code=args.code, ours=ours, cfg=cfg, training_classes=args.classes[0] if args.training else None
        )
        # Of torch, timm and others, for what has changed since their code was written.
        warnings.simplefilter("ignore")
        with opened(authors, args.code, args.packages):
            theirs = authors.build(request).train(bool(args.training))
        copy_weights(official, theirs, constants=model_table.dropped)
        del request
    del official
    if args.alone == "theirs":
        ours = None
    elif args.training and cfg.SOLVER.ACTIVATION_CHECKPOINTING:
        recompute_activations(ours)
    gc.collect()
    for classes in args.classes:
        names = words(classes)
        if theirs is not None:
            authors.set_words(theirs, names, texts[classes])
        if args.training:
            batch = records(size, args.training, names)
            both = {"ours": ours and training_side(ours, batch), "theirs": theirs and training_side(theirs, batch)}
        else:
            fed = entry(size, output, names)
            both = {
                "ours": ours and our_picture(ours, fed, output, texts[classes]),
                "theirs": theirs and their_picture(theirs, fed),
            }
        yield classes, {name: side for name, side in both.items() if isinstance(side, Side)}

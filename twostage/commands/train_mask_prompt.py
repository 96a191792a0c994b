"""Adapt CLIP to masked pictures, as OVSeg does; see `tools/train_mask_prompt.py`."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tabulate import tabulate

from twostage.api import load
from twostage.checkpoint.safe_loading import load_tensors
from twostage.clip.loading import load_clip
from twostage.clip.regions.crops import crop_side
from twostage.clip.templates import TEMPLATES
from twostage.clip.text import TextEmbedder
from twostage.data.captions import CAPTIONS
from twostage.data.loaders import dataset_records
from twostage.data.views import dataset_info
from twostage.errors import UserError, near_names
from twostage.files import atomic_path, check_writable
from twostage.systems.two_stage.ovseg.adaptation.accuracy import masked_accuracy
from twostage.systems.two_stage.ovseg.adaptation.merging import merge_clip
from twostage.systems.two_stage.ovseg.adaptation.pair_data import PairDataset
from twostage.systems.two_stage.ovseg.adaptation.pairs import (
    pairs_from_captions,
    pairs_from_labels,
    read_pairs,
    write_pairs,
)
from twostage.systems.two_stage.ovseg.adaptation.tuning import RECIPES, TuningRecipe, tune
from twostage.weights.find import weights_file


def run_from_arguments(args: argparse.Namespace) -> None:
    """Run `pairs`, `train`, `accuracy` or `merge`."""
    {"pairs": make_pairs, "train": train, "accuracy": accuracy, "merge": merge}[args.command](args)


def make_pairs(args: argparse.Namespace) -> None:
    """The command `pairs`."""
    check_writable(args.output, "choose another --output")
    info = dataset_info(args.dataset)
    records = dataset_records(info)[: args.limit]
    if info.kind == CAPTIONS:
        if not args.segmenter:
            raise UserError(f"'{args.dataset}' has captions, not masks; give --segmenter and --weights for proposals")
        # One caption per picture, the first.
        records = list({record["file_name"]: record for record in reversed(records)}.values())[::-1]
        pairs = pairs_from_captions(records, load(args.segmenter, weights=args.weights), min_pixels=args.min_pixels)
    else:
        pairs = pairs_from_labels(records, info.class_names, ignore_label=info.ignore_label, min_pixels=args.min_pixels)
    print(f"{write_pairs(pairs, args.output)} pairs in {args.output}")


def train(args: argparse.Namespace) -> None:
    """The command `train`."""
    check_writable(args.output.parent, "choose another --output")
    phases = [_recipe(args, part) for part in ("clip", "prompts") if args.mode in (part, "both")]
    pairs = read_pairs(args.pairs)
    depth = args.depth if args.mode != "clip" else 0
    clip, tokenizer = load_clip(
        args.clip, pretrained=args.pretrained, quick_gelu=args.quick_gelu, mask_prompt_depth=depth
    )
    clip.to(_device(args.device))
    # Titles are embedded as they stand, without a template.
    text = TextEmbedder(clip=clip, tokenizer=tokenizer, templates=("{}",), split_synonyms=False)
    data = PairDataset(pairs, size=crop_side(clip.visual, args.crop_size, "--crop-size"), augment=True)
    print(f"{len(data)} pairs, {len(data.titles)} titles")
    for phase in phases:
        print(f"{phase.parts}: loss {tune(clip, text, data, phase, workers=args.workers):.3f} at the end")
    write_tensors(args.output, clip.state_dict())


def _device(name: str) -> str:
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """A .safetensors file, written whole or not at all."""
    with atomic_path(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)
    print(f"wrote {path}")


def _recipe(args: argparse.Namespace, part: str) -> TuningRecipe:
    """The recipe of a phase, with what the command line changes."""
    name = args.clip.replace("/", "-")
    if name not in RECIPES:
        raise UserError(f"there is no recipe for --clip {args.clip!r}{near_names(name, RECIPES)}")
    keys = ("epochs", "batch_size", "learning_rate", "seed")
    changes = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    for key, value in changes.items():
        if value <= 0 and key != "seed":
            raise UserError(f"--{key.replace('_', '-')} is {value}; it must be greater than 0")
    return dataclasses.replace(RECIPES[name][part], **changes)


def accuracy(args: argparse.Namespace) -> None:
    """The command `accuracy`."""
    info = dataset_info(args.dataset)
    records = dataset_records(info)[: args.limit]
    names = list(info.class_names)
    groups = {"seen": info.seen, "unseen": info.unseen} if info.zero_shot else {}
    clip, tokenizer = load_clip(
        args.clip, pretrained=args.pretrained, quick_gelu=args.quick_gelu, mask_prompt_depth=args.depth
    )
    clip.to(_device(args.device))
    text = TextEmbedder(clip=clip, tokenizer=tokenizer, templates=TEMPLATES["vild"], split_synonyms=False)
    size = crop_side(clip.visual, args.crop_size, "--crop-size")
    with tempfile.TemporaryDirectory() as folder:
        pairs = pairs_from_labels(records, names, ignore_label=info.ignore_label, min_pixels=args.min_pixels)
        write_pairs(pairs, Path(folder))
        data = PairDataset(read_pairs(Path(folder)), size=size, augment=False)
        found = {key: value for key, value in groups.items() if value}
        results = masked_accuracy(clip, text, data, names, groups=found)
    print(f"{len(data)} masked pictures of {args.dataset}, {len(names)} names")
    print(tabulate([[key, *value] for key, value in results.items()], headers=["", "top 1", "top 5", "class mean"]))


def merge(args: argparse.Namespace) -> None:
    """The command `merge`."""
    check_writable(args.output.parent, "choose another --output")
    weights = load_tensors(weights_file(args.weights, key="--weights"))
    write_tensors(args.output, merge_clip(weights, load_tensors(args.pretrained)))

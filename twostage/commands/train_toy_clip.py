"""Train a tiny toybox CLIP from captions only, and measure it; see `tools/train_toy_clip.py`."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from twostage.clip import loading
from twostage.clip.toybox import models as toybox_models
from twostage.clip.toybox.merges import write_merges
from twostage.clip.toybox.training import RECIPES, train
from twostage.data.toybox.dataset import NUM_VAL_OPEN, SEED, plan_scenes, render
from twostage.errors import UserError
from twostage.evaluation.clip_probe import dense_baseline, region_accuracy, zero_shot_accuracy
from twostage.files import atomic_path

_WEIGHTS_FOLDER = Path(loading.__file__).with_name("weights")
# Pictures to measure on are drawn with another seed than those of the training.
_PROBE_SEED = 9001


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict in half precision, atomically.

    Raises:
        UserError: the folder can't be written.
    """
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
        temporary.chmod(0o644)


def report(model: nn.Module) -> None:
    """Print zero-shot accuracy, the dense baseline and (for the ViT) the accuracy of given regions."""
    print("fresh pictures of one thing, accuracy:", zero_shot_accuracy(model, _PROBE_SEED))
    scenes = [scene for _, scene in render(plan_scenes(SEED, "open", NUM_VAL_OPEN), SEED, "open")]
    print("dense baseline, mIoU in percent:", dense_baseline(model, scenes))
    if hasattr(model.visual, "transformer"):
        for blocks in (2, 3):
            print(f"true regions in the last {blocks} blocks, accuracy:", region_accuracy(model, scenes, blocks))


def run_from_arguments(args: argparse.Namespace) -> None:
    """Train, write the weights and print what they can do."""
    recipe = replace(RECIPES[args.model], seed=args.seed)
    if args.steps is not None:
        if args.steps < 1:
            raise UserError(f"--steps is {args.steps}; it must be at least 1")
        recipe = replace(recipe, steps=args.steps)
    torch.set_num_threads(args.threads)
    write_merges(toybox_models.MERGES_FILE)
    toybox_models.register_toybox_models()
    torch.manual_seed(args.seed)
    model = open_clip.create_model(args.model)
    start = time.time()
    train(model, recipe)
    path = args.output or _WEIGHTS_FOLDER / f"{args.model}.safetensors"
    save_weights(model, path)
    print(f"{recipe.steps} steps, {(time.time() - start) / 60:.1f} minutes; wrote {path}")
    # Measured is what was written, in half precision.
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    report(model)

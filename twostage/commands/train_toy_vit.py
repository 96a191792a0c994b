"""What `tools/train_toy_vit.py` does."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from safetensors.torch import save_file

from twostage.data.toybox.caption_set import ensure_toybox_scene_captions
from twostage.data.toybox.captioned_pictures import read_pictures
from twostage.errors import UserError
from twostage.files import atomic_path
from twostage.foundation import toybox
from twostage.foundation.loading import TOYBOX_FILE
from twostage.machine import datasets_root


def run_from_arguments(args: argparse.Namespace) -> None:
    """The command; see the tool."""
    output = args.output or TOYBOX_FILE
    recipe = toybox.Recipe(seed=args.seed)
    if args.steps is not None:
        if args.steps < 1:
            raise UserError(f"--steps is {args.steps}; it must be at least 1")
        recipe = replace(recipe, steps=args.steps)
    torch.set_num_threads(args.threads)
    start = time.time()
    pictures = read_pictures(ensure_toybox_scene_captions(datasets_root()), recipe.pictures).images
    model = toybox.train(pictures, recipe)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(output) as temporary:
        save_file(tensors, temporary)
        temporary.chmod(0o644)
    print(f"{(time.time() - start) / 60:.1f} minutes; wrote {output}")

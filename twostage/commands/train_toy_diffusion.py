"""What `tools/train_toy_diffusion.py` does."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from safetensors.torch import save_file

from twostage.clip.loading import load_clip
from twostage.data.toybox.caption_set import ensure_toybox_scene_captions
from twostage.data.toybox.captioned_pictures import read_pictures
from twostage.errors import UserError
from twostage.files import atomic_path
from twostage.machine import datasets_root
from twostage.systems.two_stage.odise.diffusion import toybox
from twostage.systems.two_stage.odise.diffusion.latent_diffusion import LatentDiffusion
from twostage.systems.two_stage.odise.diffusion.networks import build_autoencoder, build_unet
from twostage.systems.two_stage.odise.diffusion.stable_diffusion import EMPTY_PROMPT, TOYBOX_FILE


def run_from_arguments(args: argparse.Namespace) -> None:
    """The command; see the tool."""
    output = args.output or TOYBOX_FILE
    recipe = toybox.Recipe(seed=args.seed)
    for name in ("vae_steps", "unet_steps"):
        steps = getattr(args, name)
        if steps is not None and steps < 1:
            raise UserError(f"--{name.replace('_', '-')} is {steps}; it must be at least 1")
        recipe = recipe if steps is None else replace(recipe, **{name: steps})
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    start = time.time()
    clip, tokenizer = load_clip("toybox-vit", pretrained="toybox")
    vae = build_autoencoder(recipe.vae_channels)
    unet = build_unet(recipe.unet_channels, heads=recipe.heads, prompt_width=clip.ln_final.normalized_shape[0])
    pictures = read_pictures(ensure_toybox_scene_captions(datasets_root()), recipe.pictures)
    toybox.train_autoencoder(vae, pictures, recipe)
    toybox.train_unet(unet, toybox.encode_pictures(vae, pictures.images), pictures, clip, tokenizer, recipe)
    model = LatentDiffusion(vae=vae, unet=unet, recompute=False)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    tensors[EMPTY_PROMPT] = toybox.prompt_tokens(clip, tokenizer, [""], recipe.prompt_tokens).half()
    with atomic_path(output) as temporary:
        save_file(tensors, temporary)
        temporary.chmod(0o644)
    print(f"{(time.time() - start) / 60:.1f} minutes; wrote {output}")

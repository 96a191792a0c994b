"""Train the narrow latent-diffusion model that ODISE runs on at toy size; the shipped weights come from here.

    python tools/train_toy_diffusion.py

writes `toybox-diffusion.safetensors` (half precision; autoencoder and UNet up to the last map that ODISE reads, and the
tiny CLIP's tokens of the empty prompt). Pictures and captions are those of `toybox_scene_captions`; no mask is read.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from twostage.clip.loading import load_clip
from twostage.data.toybox.caption_set import ensure_toybox_scene_captions
from twostage.errors import UserError, run_cli
from twostage.files import atomic_path
from twostage.machine import datasets_root
from twostage.systems.two_stage.odise.diffusion import toybox
from twostage.systems.two_stage.odise.diffusion.latent_diffusion import LatentDiffusion
from twostage.systems.two_stage.odise.diffusion.networks import build_autoencoder, build_unet
from twostage.systems.two_stage.odise.diffusion.stable_diffusion import EMPTY_PROMPT, TOYBOX_FILE


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, help="default: those of the shipped weights")
    parser.add_argument("--unet-steps", type=int, help="default: those of the shipped weights")
    parser.add_argument("--threads", type=int, default=1, help="the shipped weights were trained with one")
    parser.add_argument("--output", type=Path, default=TOYBOX_FILE, help="file to write; default: the shipped one")
    args = parser.parse_args()
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
    pictures = toybox.read_pictures(ensure_toybox_scene_captions(datasets_root()), recipe.pictures)
    toybox.train_autoencoder(vae, pictures, recipe)
    toybox.train_unet(unet, toybox.encode_pictures(vae, pictures.images), pictures, clip, tokenizer, recipe)
    model = LatentDiffusion(vae=vae, unet=unet, recompute=False)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    tensors[EMPTY_PROMPT] = toybox.prompt_tokens(clip, tokenizer, [""], recipe.prompt_tokens).half()
    with atomic_path(args.output) as temporary:
        save_file(tensors, temporary)
        temporary.chmod(0o644)
    print(f"{(time.time() - start) / 60:.1f} minutes; wrote {args.output}")


if __name__ == "__main__":
    run_cli(main)

"""What `tools/benchmark_diffusion.py` does."""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from twostage.systems.two_stage.odise.diffusion.latent_diffusion import LATENT_SCALE, LatentDiffusion, Prompt
from twostage.systems.two_stage.odise.diffusion.networks import build_autoencoder, build_unet

_VAE, _UNET, _HEADS, _TOKENS, _WIDTH, _SIDE = (128, 256, 512, 512), (320, 640, 1280, 1280), 8, 77, 768, 512
_TEXT_LAYERS = 12


def run_from_arguments(args: argparse.Namespace) -> None:
    """The command; see the tool."""
    torch.manual_seed(0)
    vae, unet = build_autoencoder(_VAE).eval(), build_unet(_UNET, heads=_HEADS, prompt_width=_WIDTH).eval()
    layer = nn.TransformerEncoderLayer(_WIDTH, 12, 4 * _WIDTH, batch_first=True, norm_first=True, activation="gelu")
    text = nn.TransformerEncoder(layer, _TEXT_LAYERS, enable_nested_tensor=False).eval()
    crops = torch.rand(args.crops, 3, _SIDE, _SIDE)
    prompt = Prompt(torch.randn(1, _TOKENS, _WIDTH), torch.randn(1, 4 * _UNET[0]))
    rows = []
    with torch.inference_mode():
        # In this order, because the peak only grows. The weights are shared, so that all peaks hold the whole graph's.
        walk = _walk(vae, unet)
        rows.append(
            ["ours, one crop at a time", *_measure(lambda: [walk(c[None], prompt) for c in crops], args.repeats)]
        )
        rows.append(
            ["whole graph", *_measure(lambda: [_whole(vae, unet, text, c[None], prompt) for c in crops], args.repeats)]
        )
        rows.append(
            ["ours, all crops together", *_measure(lambda: walk(crops, _for(prompt, args.crops)), args.repeats)]
        )
    print(tabulate(rows, headers=["", "seconds", "peak GiB so far"], floatfmt=".2f"))


def _walk(vae: Any, unet: Any) -> LatentDiffusion:
    """Our walk over copies of the two networks that share their weights."""
    with torch.device("meta"):
        model = LatentDiffusion(
            vae=build_autoencoder(_VAE),
            unet=build_unet(_UNET, heads=_HEADS, prompt_width=_WIDTH),
            recompute=False,
        )
    weights = {f"vae.{n}": t for n, t in vae.state_dict().items()} | {
        f"unet.{n}": t for n, t in unet.state_dict().items()
    }
    model.load_state_dict({name: weights[name] for name in model.state_dict()}, assign=True)
    model.noise = torch.randn(1, 4, _SIDE // 8, _SIDE // 8)
    return model.eval()


def _for(prompt: Prompt, crops: int) -> Prompt:
    return Prompt(prompt.context.expand(crops, -1, -1), prompt.time.expand(crops, -1))


def _whole(vae: Any, unet: Any, text: nn.Module, crop: Tensor, prompt: Prompt) -> Tensor:
    """What the published code computes for a crop."""
    text(prompt.context)
    latents = vae.encode(2 * crop - 1).latent_dist.mode() * LATENT_SCALE
    unet(latents, 0, encoder_hidden_states=prompt.context)
    return vae.decode(latents / LATENT_SCALE).sample


def _measure(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

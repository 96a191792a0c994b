"""Training a narrow latent-diffusion model on captioned toybox pictures: an autoencoder, then a UNet in its latents that is
conditioned on the tiny CLIP's text tokens (Rombach et al., CVPR 2022, sections 3.1 and 3.2).

Legend: N pictures of S pixels, B a batch, L prompt tokens, D their channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from twostage.clip.loading import ClipModel, Tokenizer
from twostage.data.toybox.captioned_pictures import CaptionedPictures
from twostage.systems.two_stage.odise.diffusion.latent_diffusion import LATENT_SCALE, LATENT_STRIDE, betas
from twostage.systems.two_stage.odise.diffusion.networks import LATENT_CHANNELS, Network

# Weight of the pull of latents to a normal distribution, as published.
_KL_WEIGHT = 1e-6
# Share of captions that are left out, so that the empty prompt is known.
_WITHOUT_CAPTION = 0.1
_WARM_UP = 50
_FIRST_LOG_VARIANCE = -8.0
# Pictures that the scale of latents is read off.
_MEASURED = 150


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the narrow model is trained."""

    vae_channels: tuple[int, ...] = (32, 32, 64, 64)
    unet_channels: tuple[int, ...] = (32, 64, 96, 96)
    heads: int = 4
    prompt_tokens: int = 24
    seed: int = 0
    # The set's first pictures, all of which the autoencoder learns from; encoding them takes a good part of the time.
    pictures: int = 1200
    # Autoencoder: steps, pictures a step, side of the random parts it sees, learning rate.
    vae_steps: int = 420
    vae_batch: int = 4
    vae_side: int = 64
    vae_rate: float = 2e-3
    # UNet: the same, on whole pictures.
    unet_steps: int = 500
    unet_batch: int = 16
    unet_rate: float = 1.5e-3


@torch.no_grad()
def prompt_tokens(clip: ClipModel, tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Tensor:
    """CLIP's text tokens `[B, L, D]` behind its final norm, padding included, as Stable Diffusion reads them."""
    tokens = tokenizer(list(texts), context_length=length)
    x = clip.token_embedding(tokens) + clip.positional_embedding[:length]
    return clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))


def _rate(step: int, steps: int) -> float:
    """Learning-rate factor: linear warm-up, then a cosine to zero."""
    return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + float(np.cos(np.pi * step / steps)))


def _steps(network: nn.Module, steps: int, rate: float, title: str) -> Iterator[tuple[int, Any]]:
    """Step numbers, each with a function that takes the loss and updates `network`; shows the mean loss."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    mean = None
    progress = tqdm(range(steps), title, mininterval=10)

    def update(loss: Tensor) -> None:
        nonlocal mean
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        progress.set_postfix(loss=f"{mean:.4f}", refresh=False)

    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = rate * _rate(step, steps)
        yield step, update


def train_autoencoder(vae: Network, pictures: CaptionedPictures, recipe: Recipe) -> None:
    """Train `vae` in place to restore random parts of pictures; its latents then have the published scale."""
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        # Latents start almost certain: under noise as large as themselves the decoder first learns to ignore them.
        vae.quant_conv.bias[LATENT_CHANNELS:] += _FIRST_LOG_VARIANCE
    room = pictures.images.shape[-1] - recipe.vae_side + 1
    for _, update in _steps(vae.train(), recipe.vae_steps, recipe.vae_rate, "autoencoder"):
        chosen = torch.randint(len(pictures.images), (recipe.vae_batch,), generator=generator)
        corners = torch.randint(room, (recipe.vae_batch, 2), generator=generator).tolist()
        side = recipe.vae_side
        images = torch.stack(
            [pictures.images[i, :, y : y + side, x : x + side] for i, (y, x) in zip(chosen, corners, strict=True)]
        )
        images = _signed(images)
        mean, log_variance = vae.quant_conv(vae.encoder(images)).chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        noise = torch.randn(mean.shape, generator=generator)
        restored = vae.decoder(vae.post_quant_conv(mean + (log_variance / 2).exp() * noise))
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / (2 * len(images))
        update(F.l1_loss(restored, images) + F.mse_loss(restored, images) + _KL_WEIGHT * divergence)
    vae.eval()
    _rescale(vae, encode_pictures(vae, pictures.images[:_MEASURED]))


def _signed(images: Tensor) -> Tensor:
    """uint8 images on -1..1."""
    return images.float() / 127.5 - 1


@torch.no_grad()
def _rescale(vae: Network, latents: Tensor) -> None:
    """Give latents (published scale included) mean 0 and deviation 1; the autoencoder as a whole stays as it is."""
    mean = latents.mean(dim=(0, 2, 3)) / LATENT_SCALE
    factor = 1 / latents.std(dim=(0, 2, 3))
    encode, decode = vae.quant_conv, vae.post_quant_conv
    means = slice(0, LATENT_CHANNELS)
    encode.weight[means] *= factor[:, None, None, None]
    encode.bias[means] = (encode.bias[means] - mean) * factor
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight /= factor[None, :, None, None]


@torch.no_grad()
def encode_pictures(vae: Network, images: Tensor, batch: int = 25) -> Tensor:
    """Latents `[N, 4, S / 8, S / 8]` of uint8 `images` `[N, 3, S, S]`."""
    parts = tqdm(images.split(batch), "latents", mininterval=10)
    return torch.cat([vae.quant_conv(vae.encoder(_signed(p)))[:, :LATENT_CHANNELS] * LATENT_SCALE for p in parts])


def train_unet(
    unet: Network, latents: Tensor, pictures: CaptionedPictures, clip: ClipModel, tokenizer: Tokenizer, recipe: Recipe
) -> None:
    """Train `unet` in place to tell the noise in latents, given a caption."""
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    kept = (1 - betas()).cumprod(0)
    captions = [caption for each in pictures.captions for caption in each]
    prompts = prompt_tokens(clip, tokenizer, [*captions, ""], recipe.prompt_tokens)
    first = np.concatenate([[0], np.cumsum([len(each) for each in pictures.captions])])
    assert latents.shape[-1] * LATENT_STRIDE == pictures.images.shape[-1]
    for _, update in _steps(unet.train(), recipe.unet_steps, recipe.unet_rate, "UNet"):
        chosen = torch.randint(len(latents), (recipe.unet_batch,), generator=generator)
        draws = torch.rand(2, recipe.unet_batch, generator=generator)
        which = torch.tensor(
            [first[i] + int(d * (first[i + 1] - first[i])) for i, d in zip(chosen.tolist(), draws[0], strict=True)]
        )
        which[draws[1] < _WITHOUT_CAPTION] = len(prompts) - 1
        steps = torch.randint(len(kept), (recipe.unet_batch,), generator=generator)
        noise = torch.randn(latents[chosen].shape, generator=generator)
        share = kept[steps].float()[:, None, None, None]
        noisy = share.sqrt() * latents[chosen] + (1 - share).sqrt() * noise
        told = unet(noisy, steps, encoder_hidden_states=prompts[which], return_dict=False)[0]
        update(F.mse_loss(told, noise))
    unet.eval()

"""A frozen latent diffusion model as a feature extractor: its parts are walked up to the last feature map that is read
(ODISE, Xu et al., CVPR 2023, section 3.2; Stable Diffusion: Rombach et al., CVPR 2022).

A tap is the input of a res-block. Nothing is hooked: the walk goes over diffusers' blocks one by one and ends at the last
tap, and what lies behind it has been removed.

Legend: B crops, S their side in pixels, L prompt tokens, D their channels, T channels of the time embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from twostage.systems.two_stage.odise.diffusion.networks import (
    LATENT_CHANNELS,
    Network,
    drop_behind_last_tap,
    frozen,
)

# Pixels per cell of the latent grid, and the standard deviation of latents that Stable Diffusion divides by.
LATENT_STRIDE = 8
LATENT_SCALE = 0.18215
# The noise is the same for all pictures: drawn once, for a picture of 512 pixels.
_NOISE_SEED = 42
_NOISE_SIDE = 64
_STEPS = 1000
_BETAS = (0.00085, 0.012)


class Prompt(NamedTuple):
    """What the UNet is conditioned on: tokens `context` `[B, L, D]` and `time`, added to the time embedding, `[B, T]`."""

    context: Tensor
    time: Tensor


def betas() -> Tensor:
    """Variance of the noise that each of the thousand steps adds, float64 `[1000]`."""
    return torch.linspace(_BETAS[0] ** 0.5, _BETAS[1] ** 0.5, _STEPS, dtype=torch.float64, device="cpu") ** 2


def noise_factors() -> tuple[float, float]:
    """Factors of latent and noise at step 0, rounded to single precision."""
    first = betas()[0]
    return float((1 - first).sqrt().float()), float(first.sqrt().float())


class LatentDiffusion(nn.Module):
    """Autoencoder and UNet; gives the eight feature maps of crops."""

    noise: Tensor
    vae: Network
    unet: Network

    def __init__(self, *, vae: Network, unet: Network, recompute: bool) -> None:
        """
        Args:
            vae, unet: whole networks; what lies behind the last tap is removed.
            recompute: in training the UNet's activations are computed again for the gradients instead of kept.
        """
        super().__init__()
        drop_behind_last_tap(vae, unet)
        self.vae = frozen(vae)
        self.unet = frozen(unet)
        self.recompute = recompute
        generator = torch.Generator(device="cpu").manual_seed(_NOISE_SEED)
        noise = torch.randn(1, LATENT_CHANNELS, _NOISE_SIDE, _NOISE_SIDE, generator=generator, device="cpu")
        self.register_buffer("noise", noise, persistent=False)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the eight maps, in their order."""
        encoder, decoder = self.vae.encoder.down_blocks, self.vae.decoder.up_blocks
        blocks = [encoder[2].resnets[1], encoder[3].resnets[1]]
        sizes = [block.in_channels for block in blocks]
        for block in self.unet.up_blocks:
            # The last block has lost its third res-block: it took what the second gives and the first skip connection.
            third = block.resnets[2] if len(block.resnets) > 2 else None
            sizes.append(third.in_channels if third is not None else block.resnets[1].out_channels + self._stem)
        return (*sizes, decoder[0].resnets[2].in_channels, decoder[1].resnets[1].out_channels)

    @property
    def _stem(self) -> int:
        return self.unet.conv_in.out_channels

    def forward(self, crops: Tensor, prompt: Prompt) -> list[Tensor]:
        """Eight feature maps of crops `[B, 3, S, S]` in 0..1: two of the encoder (strides 4 and 8), four of the UNet (64,
        32, 16, 8), two of the decoder (8 and 4). Gradients reach the prompt only."""
        with torch.no_grad():
            latents, encoder = self.encode(crops)
            decoder = self.decode(latents)
        return [*encoder, *self.denoise(self.add_noise(latents), prompt), *decoder]

    def encode(self, crops: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Latents `[B, 4, S / 8, S / 8]` (the posterior's mean, scaled) and the encoder's two taps."""
        encoder = self.vae.encoder
        x = encoder.conv_in(2 * crops - 1)
        taps = []
        for level, block in enumerate(encoder.down_blocks):
            for index, resnet in enumerate(block.resnets):
                if level >= 2 and index == 1:
                    taps.append(x)
                x = resnet(x, None)
            for downsampler in block.downsamplers or ():
                x = downsampler(x)
        x = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(x))))
        return self.vae.quant_conv(x)[:, :LATENT_CHANNELS] * LATENT_SCALE, taps

    def add_noise(self, latents: Tensor) -> Tensor:
        """The UNet's input: latents after the first of a thousand steps of noise."""
        noise = self.noise
        if noise.shape[-2:] != latents.shape[-2:]:
            noise = F.interpolate(noise, size=latents.shape[-2:], mode="bicubic", align_corners=False)
        keep, add = noise_factors()
        return keep * latents + add * noise

    def denoise(self, latents: Tensor, prompt: Prompt) -> list[Tensor]:
        """The UNet's four taps, coarse to fine, from noisy latents."""
        unet = self.unet
        time = unet.time_embedding(unet.time_proj(torch.zeros(1, device=latents.device)).to(latents.dtype))
        time = time + prompt.time
        x = unet.conv_in(latents)
        skips = [x]
        for block in unet.down_blocks:
            context = (prompt.context,) if getattr(block, "has_cross_attention", False) else ()
            x, outputs = self._run(block, x, time, *context)
            skips += outputs
        x = self._run(unet.mid_block, x, time, prompt.context)
        taps = []
        for block in unet.up_blocks:
            attentions = getattr(block, "attentions", None)
            for index, resnet in enumerate(block.resnets):
                x = torch.cat([x, skips.pop()], dim=1)
                if index == 2:
                    taps.append(x)
                x = self._run(resnet, x, time)
                if attentions is not None:
                    x = self._run(_attend(attentions[index]), x, prompt.context)
            if len(taps) == len(unet.up_blocks) - 1 and block is unet.up_blocks[-1]:
                return [*taps, torch.cat([x, skips.pop()], dim=1)]
            for upsampler in block.upsamplers or ():
                x = upsampler(x)
        raise AssertionError("the last block ends at its tap")

    def _run(self, module: Callable[..., Any], *inputs: Any) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)

    def decode(self, latents: Tensor) -> list[Tensor]:
        """The decoder's two taps, from latents without noise."""
        decoder = self.vae.decoder
        x = decoder.mid_block(decoder.conv_in(self.vae.post_quant_conv(latents / LATENT_SCALE)))
        coarse, fine = decoder.up_blocks
        for resnet in coarse.resnets[:2]:
            x = resnet(x, None)
        taps = [x]
        x = coarse.resnets[2](x, None)
        for upsampler in coarse.upsamplers:
            x = upsampler(x)
        for resnet in fine.resnets:
            x = resnet(x, None)
        return [*taps, x]


def _attend(transformer: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """A UNet's transformer as a function of its map and the prompt's tokens."""
    return lambda x, context: transformer(x, encoder_hidden_states=context, return_dict=False)[0]

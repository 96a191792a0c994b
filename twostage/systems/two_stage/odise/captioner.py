"""The implicit captioner: a picture's CLIP embedding in place of a caption (ODISE, Xu et al., CVPR 2023, section 3.3).

Legend: B crops, E CLIP's embedding size, L prompt tokens, D their channels, T channels of the time embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from twostage.clip.towers.vit import Tower, image_embeddings, image_side
from twostage.systems.two_stage.odise.diffusion.latent_diffusion import Prompt

_INITIAL_STD = 0.02


class PositionalLinear(nn.Module):
    """One vector becomes `length` ones: the same linear map for all, and a learnt vector for each."""

    def __init__(self, *, channels: int, out: int, length: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, out)
        self.positional_embedding = nn.Parameter(torch.empty(1, length, out))
        nn.init.trunc_normal_(self.positional_embedding, std=_INITIAL_STD)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, channels]` to `[B, length, out]`."""
        return self.linear(x)[:, None] + self.positional_embedding


class ImplicitCaptioner(nn.Module):
    """From CLIP's embedding of a crop to what the UNet is conditioned on.

    Both conditions pass a gate that is shut at first, so that training starts from the empty prompt.

    Attributes:
        empty_prompt: tokens of the empty prompt, `[1, L, D]`: what Stable Diffusion's text encoder makes of "". It is a
            constant, so it is stored and the text encoder is not.
    """

    empty_prompt: Tensor

    def __init__(self, *, embedding: int, tokens: int, width: int, time_width: int) -> None:
        """
        Args:
            embedding, tokens, width, time_width: E, L, D and T.
        """
        super().__init__()
        self.to_prompt = PositionalLinear(channels=embedding, out=width, length=tokens)
        self.to_time = PositionalLinear(channels=embedding, out=time_width, length=1)
        self.prompt_gate = nn.Parameter(torch.zeros(1, tokens, width))
        self.time_gate = nn.Parameter(torch.zeros(time_width))
        self.register_buffer("empty_prompt", torch.zeros(1, tokens, width))

    def forward(self, embeddings: Tensor) -> Prompt:
        """From CLIP embeddings `[B, E]`, not of unit length."""
        context = self.empty_prompt + self.prompt_gate.tanh() * self.to_prompt(embeddings)
        return Prompt(context, self.time_gate.tanh() * self.to_time(embeddings)[:, 0])


@torch.no_grad()
def embed_crops(visual: Tower, crops: Tensor) -> Tensor:
    """CLIP embeddings `[B, E]` of square crops `[B, 3, S, S]` in 0..1, not of unit length; resized without antialiasing."""
    return image_embeddings(visual, clip_pixels(visual, crops, "bicubic"))


def clip_pixels(visual: Tower, images: Tensor, mode: str) -> Tensor:
    """Images `[B, 3, H, W]` in 0..1 at the size of CLIP's own pictures and in its statistics; ratios are not kept."""
    side = image_side(visual)
    if images.shape[-2:] != (side, side):
        images = F.interpolate(images, size=(side, side), mode=mode, align_corners=False)
    mean, deviation = (images.new_tensor(v).view(3, 1, 1) for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (images - mean) / deviation

"""Dense CLIP features of an image tower, by any of the training-free methods (`attentions.py`, `two_path.py`).

Legend: B images, h x w the tower's grid, W its width, D the embedding size.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from twostage.clip.dense.attentions import FULL_ATTENTIONS, last_block, neighbourhood_bias
from twostage.clip.dense.two_path import clip_surgery, gem, run_two_paths
from twostage.clip.keys import Attention, DenseMethod, PositionRule
from twostage.clip.towers.any_timm import allow_any_size, is_timm, timm_dense, timm_stride
from twostage.clip.towers.resnet import is_clip_resnet, resnet_dense, resnet_keys, run_resnet
from twostage.clip.towers.siglip import embed_siglip_image, is_siglip, project_siglip_tokens, siglip_blocks
from twostage.clip.towers.vit import (
    Block,
    Tokens,
    Tower,
    embed_image,
    merge_heads,
    project_qkv,
    project_tokens,
    require_vit,
    run_blocks,
)
from twostage.errors import UserError
from twostage.inference.shape_cache import shape_cache


class DenseFeatures(NamedTuple):
    """What a tower says of images.

    Attributes:
        patches: `[B, D, h, w]`, not of unit length.
        class_embedding: CLIP's image embedding `[B, D]` of the unchanged path; None where the method has none.
        keys: the last block's keys after its output projection (MaskCLIP), `[B, h * w, W]`; None unless asked for.
    """

    patches: Tensor
    class_embedding: Tensor | None
    keys: Tensor | None


class DenseTower:
    """Reads dense features off an image tower. Not a module: it borrows the tower."""

    def __init__(
        self,
        *,
        visual: Tower,
        method: DenseMethod,
        full: bool | None = None,
        gaussian_std: float = 5.0,
        position_rule: PositionRule = "size",
        split_depth: int = 6,
        gem_iterations: int = 1,
        gem_temperature: float | None = None,
        with_keys: bool = False,
    ) -> None:
        """
        Args:
            visual: open_clip's ViT, SigLIP, (MaskCLIP only) ResNet or ("vanilla" only) any other timm tower.
            full: keep residual and MLP of the last block; None as published.
            gaussian_std: of NACLIP's neighbourhood, in patches.
            split_depth: last blocks that CLIP Surgery and GEM run twice.
            with_keys: also return `DenseFeatures.keys`.

        Raises:
            UserError: the method does not fit the tower.
        """
        self.visual = visual
        self.method = method
        self.full = method in FULL_ATTENTIONS if full is None else full
        self.gaussian_std = gaussian_std
        self.position_rule = position_rule
        self.split_depth = split_depth
        self.gem_iterations = gem_iterations
        self.gem_temperature = gem_temperature
        self.with_keys = with_keys
        self._kind = tower_kind(visual, method)
        if self._kind == "timm":
            allow_any_size(visual)
        if method in ("clip_surgery", "gem") and not 0 < split_depth <= len(self.blocks):
            raise UserError(
                f"MODEL.TRAINING_FREE.SPLIT_DEPTH is {split_depth}; this tower has {len(self.blocks)} blocks, so 1 to "
                f"{len(self.blocks)} are allowed"
            )

    @property
    def blocks(self) -> list[Block]:
        """The tower's transformer blocks."""
        return siglip_blocks(self.visual) if self._kind == "siglip" else list(self.visual.transformer.resblocks)

    @property
    def patch_size(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels; for a ResNet its stride."""
        if self._kind == "resnet":
            return 32, 32
        if self._kind == "timm":
            return timm_stride(self.visual), timm_stride(self.visual)
        weight = (self.visual.trunk.patch_embed.proj if self._kind == "siglip" else self.visual.conv1).weight
        return weight.shape[2], weight.shape[3]

    @property
    def window_multiple(self) -> tuple[int, int]:
        """(height, width) that padded windows are a multiple of."""
        return self.patch_size

    def __call__(self, images: Tensor) -> DenseFeatures:
        """Dense features of normalised images `[B, 3, H, W]`."""
        if self._kind == "resnet":
            x = run_resnet(self.visual, images)
            keys = resnet_keys(self.visual, x) if self.with_keys else None
            return DenseFeatures(resnet_dense(self.visual, x), None, keys)
        if self._kind == "timm":
            return DenseFeatures(timm_dense(self.visual, images), None, None)
        tokens = self.embed(images)
        if self.method in ("clip_surgery", "gem"):
            return self._two_paths(tokens)
        tokens, _ = run_blocks(self.blocks[:-1], tokens)
        keys = self._keys(tokens) if self.with_keys else None
        return DenseFeatures(self.project(self.run_last(tokens)).patch_map, None, keys)

    def embed(self, images: Tensor) -> Tokens:
        """Tokens before the first block."""
        embed = embed_siglip_image if self._kind == "siglip" else embed_image
        return embed(self.visual, images, rule=self.position_rule)

    def before_last(self, images: Tensor) -> Tokens:
        """Tokens in front of the last block, of normalised images `[B, 3, H, W]`."""
        return run_blocks(self.blocks[:-1], self.embed(images))[0]

    def run_last(self, tokens: Tokens) -> Tokens:
        """The last block with the method's attention (of methods that change no other block)."""
        attention = cast(Attention, self.method)
        bias = partial(self.bias, tokens)
        x = last_block(self.blocks[-1], tokens.x, attention=attention, full=self.full, bias=bias)
        return tokens._replace(x=x)

    def project(self, tokens: Tokens) -> Tokens:
        """Tokens behind the last block as embeddings `[B, N, D]`."""
        project = project_siglip_tokens if self._kind == "siglip" else project_tokens
        return tokens._replace(x=project(self.visual, tokens.x))

    def bias(self, tokens: Tokens) -> Tensor:
        """NACLIP's additive bias `[N, N]` for these tokens."""
        return _cached_bias(tokens.grid, self.gaussian_std, tokens.class_tokens == 1, tokens.x.device).to(
            tokens.x.dtype
        )

    def _two_paths(self, tokens: Tokens) -> DenseFeatures:
        blocks = self.blocks
        tokens, _ = run_blocks(blocks[: -self.split_depth], tokens)
        correlate = clip_surgery
        if self.method == "gem":
            correlate = partial(gem, iterations=self.gem_iterations, temperature=self.gem_temperature)
        original, new = run_two_paths(blocks[-self.split_depth :], tokens, correlate)
        patches = self.project(tokens._replace(x=new)).patch_map
        if tokens.class_tokens == 0:
            return DenseFeatures(patches, None, None)
        class_token = tokens._replace(x=original[:, :1])
        return DenseFeatures(patches, self.project(class_token).x[:, 0], None)

    def _keys(self, tokens: Tokens) -> Tensor:
        block = self.blocks[-1]
        (key,) = project_qkv(block.attn, block.ln_1(tokens.x), "k")
        return block.attn.out_proj(merge_heads(key))[:, tokens.class_tokens :]


@shape_cache(maxsize=32)
def _cached_bias(grid: tuple[int, int], std: float, class_token: bool, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return neighbourhood_bias(grid, std, class_token=class_token, device=device)


def tower_kind(visual: Tower, method: DenseMethod) -> Literal["vit", "siglip", "resnet", "timm"]:
    """Which kind of tower `visual` is.

    Raises:
        UserError: neither, or one that `method` is not defined for.
    """
    if is_siglip(visual):
        return "siglip"
    if is_clip_resnet(visual):
        if method != "maskclip":
            raise UserError(
                f"MODEL.TRAINING_FREE.METHOD {method!r} changes a transformer's attention, which MODEL.CLIP.NAME's ResNet "
                "does not have; use a ViT such as 'ViT-B-16', or 'maskclip'"
            )
        return "resnet"
    if is_timm(visual):
        if method != "vanilla":
            raise UserError(
                f"MODEL.TRAINING_FREE.METHOD {method!r} changes the last block of a plain ViT, which MODEL.CLIP.NAME's image "
                "tower has not; use 'vanilla', or a ViT such as 'ViT-B-16'"
            )
        return "timm"
    require_vit(visual, "training-free segmentation")
    return "vit"


def use_exact_gelu(visual: Tower, *, norm_eps: float) -> None:
    """Make a ViT's MLPs use the erf GELU and its layer norms `norm_eps`, in place; the weights stay.

    MaskCLIP's released configs run CLIP's weights so.
    """
    require_vit(visual, "MODEL.TRAINING_FREE.EXACT_GELU")
    for block in visual.transformer.resblocks:
        block.mlp.gelu = nn.GELU()
    for module in visual.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = norm_eps

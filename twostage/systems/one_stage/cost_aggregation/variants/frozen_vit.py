"""Guidance from another frozen backbone: any ViT of timm, of the DINO family above all.

Self-supervised ViTs keep boundaries that CLIP loses: DINO (Caron et al., ICCV 2021), DINOv2 (Oquab et al., TMLR 2024). Their
dense features are patch tokens after the final norm, as in DINOv2's own dense evaluations (section 7.4 there).

Legend: V views (squares cut from images), C width.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from detectron2.config import CfgNode
from timm.models import get_arch_pretrained_cfgs
from torch import Tensor, nn

from twostage.checkpoint.safe_loading import check_same_tensors, load_tensors
from twostage.clip.statistics import Pictures, PixelStatistics, PixelUnits
from twostage.errors import UserError, near_names
from twostage.systems.one_stage.cost_aggregation.parts import Cut
from twostage.weights.find import first_published, is_known, weights_file
from twostage.weights.tags import timm_addresses


class FrozenViT(nn.Module):
    """A ViT that is never trained and always in evaluation mode.

    Like a frozen CLIP it is part of checkpoints, so a checkpoint needs no other file.

    Attributes:
        width: C.
    """

    def __init__(self, vit: Any, *, taps: Sequence[int], cells: int, units: PixelUnits) -> None:
        """
        Args:
            vit: a ViT of timm.
            taps: blocks whose outputs are given beside the last one's; i is the output of the i-th block.
            cells: side of the patch grid, on which a square is seen.
            units: the ViT's.
        """
        super().__init__()
        self.vit = vit.requires_grad_(False).eval()
        self.taps = list(taps)
        self.width = int(vit.embed_dim)
        self.side = cells * int(vit.patch_embed.patch_size[0])
        self.units = units

    def train(self, mode: bool = True) -> FrozenViT:
        """Stays in evaluation mode."""
        self.training = mode
        return self

    @torch.no_grad()
    def forward(self, images: Pictures, cut: Cut) -> list[Tensor]:
        """Maps `[V, C, cells, cells]` of the tapped blocks in their order, then of the last one, each after the final norm.

        Args:
            cut: makes squares `[V, 3, side, side]` of normalised images and a side.
        """
        wanted = sorted({*self.taps, len(self.vit.blocks)})
        maps = self.vit.forward_intermediates(
            cut(images.in_units(self.units), self.side),
            indices=[tap - 1 for tap in wanted],
            norm=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        found = dict(zip(wanted, maps, strict=True))
        return [found[tap] for tap in (*self.taps, wanted[-1])]


def build_frozen_vit(cfg: CfgNode, *, cells: int) -> FrozenViT:
    """The ViT of `MODEL.VIT_GUIDE` on a grid of `cells` x `cells` patches.

    As with CLIP, its own weights are not read where MODEL.WEIGHTS names a checkpoint.

    Raises:
        UserError: unknown name or tag, not a ViT, wrong taps, weights missing, unreadable or of another model.
    """
    keys = cfg.MODEL.VIT_GUIDE
    tags = _tags(keys.NAME)
    statistics = tags.get(keys.PRETRAINED) or next(iter(tags.values()))
    try:
        vit: Any = timm.create_model(keys.NAME, pretrained=False, num_classes=0, dynamic_img_size=True)
    except TypeError:
        vit = None
    if vit is None or not hasattr(vit, "blocks") or not hasattr(vit, "patch_embed"):
        raise UserError(
            f"MODEL.VIT_GUIDE.NAME is {keys.NAME!r}, which is no plain ViT; take one like 'vit_small_patch14_dinov2'"
        )
    if any(not 0 < tap <= len(vit.blocks) for tap in keys.TAPS):
        raise UserError(
            f"MODEL.VIT_GUIDE.TAPS is {keys.TAPS}; {keys.NAME!r} has {len(vit.blocks)} blocks, so 1 to {len(vit.blocks)} "
            "are allowed"
        )
    if keys.PRETRAINED and not cfg.MODEL.WEIGHTS:
        vit = _with_weights(vit, keys.NAME, keys.PRETRAINED, known=tags)
    on_255 = PixelStatistics(*([255 * value for value in values] for values in (statistics.mean, statistics.std)))
    return FrozenViT(vit, taps=keys.TAPS, cells=cells, units=PixelUnits(on_255))


def _tags(name: str) -> dict[str, Any]:
    """timm's pretrained tags of an architecture, by tag, with what timm knows of each."""
    if not timm.is_model(name) or "." in name:
        raise UserError(
            f"MODEL.VIT_GUIDE.NAME is {name!r}, which timm does not know{near_names(name, timm.list_models('vit*'))}; "
            "the tag of its weights goes into MODEL.VIT_GUIDE.PRETRAINED"
        )
    return {full.removeprefix(f"{name}."): known for full, known in get_arch_pretrained_cfgs(name).items()}


def _with_weights(vit: Any, name: str, pretrained: str, *, known: dict[str, Any]) -> Any:
    """`vit` with weights by tag or from a local file, which is read without running anything in it."""
    tensors = load_tensors(_weights_file(name, pretrained, known))
    # timm's own translation of official files (DINO, DINOv2) for this architecture.
    translate = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    if translate is not None:
        tensors = translate(tensors, vit)
    tensors = {key: value for key, value in tensors.items() if not key.startswith("head.")}
    check_same_tensors(
        vit.state_dict(), tensors, weights=f"weights '{pretrained}'", key="MODEL.VIT_GUIDE.NAME", name=name
    )
    vit.load_state_dict(tensors)
    return vit


def _weights_file(name: str, pretrained: str, known: dict[str, Any]) -> Path:
    """The file of a tag, or what `pretrained` names otherwise."""
    if pretrained in known and (addresses := timm_addresses(known[pretrained])):
        try:
            return first_published(addresses)
        except UserError as error:
            raise UserError(
                f"weights {name!r} / {pretrained!r}: {error}; or set MODEL.VIT_GUIDE.PRETRAINED to a local file, or to '' for "
                "random weights"
            ) from error
    if pretrained in known or not is_known(pretrained):
        raise UserError(
            f"MODEL.VIT_GUIDE.PRETRAINED is {pretrained!r}: neither a file nor a tag of {name!r}"
            f"{near_names(pretrained, list(known))}; tags: {', '.join(known) or 'none'}"
        )
    return weights_file(pretrained, key="MODEL.VIT_GUIDE.PRETRAINED")

"""ERR-Seg's aggregator: two cost maps fused, four layers, a decoder guided by CLIP's own stages.

Legend: B images, K kept classes (t of a block), P prompt templates, D embedding size, C channels, h x w the finer cost map's
grid (stride 16), which is twice the coarser one's (stride 32); stage i (0, 1, 2) of the decoder works at 2^i h x 2^i w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from twostage.clip.towers.convnext import Pyramid
from twostage.systems.one_stage.cost_aggregation.fusion import UpsamplingFusion
from twostage.systems.one_stage.cost_aggregation.layer import AggregatorLayer

# Stage outputs are cut at this size, both ways, before they guide.
_LIMIT = 16.0
# Channels of a group norm group in the decoder.
_GROUP_SIZE = 8


class Guidance(NamedTuple):
    """What the image tells: `appearance` `[B, C, h, w]`, and for each stage of the decoder a map on its grid."""

    appearance: Tensor
    decoder: list[Tensor]


class Costs(NamedTuple):
    """Cosine cost maps: `fine` `[B, T or K, P, h, w]` and `coarse` `[B, T or K, P, h / 2, w / 2]`."""

    fine: Tensor
    coarse: Tensor


class SameGridFusion(UpsamplingFusion):
    """`UpsamplingFusion` that keeps the grid: a 1x1 convolution in the place of the transposed one."""

    def __init__(self, *, in_channels: int, out_channels: int, visual_channels: int) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            visual_channels=visual_channels,
            upsampled_channels=out_channels,
            group_size=_GROUP_SIZE,
        )
        self.up = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def _upsampled_term(self, maps: Tensor) -> Tensor:
        return F.conv2d(self.up(maps), self.conv1.weight[:, : self.upsampled], padding=1)

    def _bias_term(self, visual: Tensor) -> Tensor:
        """Nothing: the other term holds it."""
        return visual.new_zeros(())


class Aggregator(nn.Module):
    """From the kept classes' cost maps to their logits at four times the finer grid."""

    def __init__(
        self,
        *,
        cost_channels: int,
        embedding: int,
        stage_channels: Sequence[int],
        source_channels: int,
        channels: int,
        layers: Sequence[AggregatorLayer],
        decoder_channels: Sequence[int],
        decoder_guidance: Sequence[int],
        class_block: int,
    ) -> None:
        """
        Args:
            cost_channels: P.
            embedding: D.
            stage_channels: of CLIP's stages, res2 to res5.
            source_channels: of each embedded cost map and each image guidance before they are fused.
            decoder_channels, decoder_guidance: of the decoder's three stages.
            class_block: classes worked on at a time where no gradients are kept.
        """
        super().__init__()
        res2, res3, res4, res5 = stage_channels
        self.costs = nn.ModuleList(
            nn.Conv2d(cost_channels, source_channels, kernel_size=7, padding=3) for _ in Costs._fields
        )
        self.cost_fusion = nn.Conv2d(source_channels, channels, kernel_size=1)
        # Coarse to fine, both this and the decoder's guidance.
        self.appearance = nn.ModuleList(
            nn.Conv2d(width, source_channels, kernel_size=3, padding=1) for width in (res5, res4)
        )
        self.appearance_fusion = nn.Conv2d(source_channels, channels, kernel_size=1)
        self.text = nn.Linear(embedding, channels)
        self.decoder_guidance = nn.ModuleList(
            nn.Conv2d(width, target, kernel_size=3, padding=1)
            for width, target in zip((res4, res3, res2), decoder_guidance, strict=True)
        )
        self.layers = nn.ModuleList(layers)
        self.decoder = nn.ModuleList(_stages([channels, *decoder_channels], decoder_guidance))
        self.head = nn.Conv2d(decoder_channels[-1], 1, kernel_size=1)
        self.class_block = class_block

    def guidance(self, pyramid: Pyramid) -> Guidance:
        """From CLIP's stages; gradients flow back through `appearance` alone, where nothing was cut."""
        res5, res4 = (maps.clamp(-_LIMIT, _LIMIT) for maps in (pyramid.res5, pyramid.res4))
        fine = [maps.detach().clamp(-_LIMIT, _LIMIT) for maps in (pyramid.res3, pyramid.res2)]
        coarse, own = (F.relu6(project(maps)) for project, maps in zip(self.appearance, (res5, res4), strict=True))
        appearance = self.appearance_fusion((_resize(coarse, own) + own) / 2)
        sources = [res4.detach(), *fine]
        return Guidance(
            appearance,
            [F.relu6(project(maps)) for project, maps in zip(self.decoder_guidance, sources, strict=True)],
        )

    def forward(self, costs: Costs, text: Tensor, guidance: Guidance) -> Tensor:
        """Logits `[B, K, 4h, 4w]`.

        Args:
            costs: of the kept classes.
            text: unit text embeddings of them `[B, K, P, D]`.
        """
        with record_function("aggregation"):
            parts = zip(*(self._class_blocks(cost) for cost in costs), strict=True)
            blocks = [self.embed_costs(Costs(*part)) for part in parts]
            words = self._class_blocks(self.text_guidance(text))
            for layer in self.layers:
                blocks = layer(blocks, guidance.appearance, words)
        with record_function("decoder"):
            stages: list[Any] = list(self.decoder)
            terms = [stage.visual_term(maps) for stage, maps in zip(stages, guidance.decoder, strict=True)]
            return torch.cat([self._decode(block, terms) for block in blocks], dim=1)

    def _class_blocks(self, values: Tensor) -> Sequence[Tensor]:
        """`[B, K, ...]` in blocks of classes; whole where gradients are kept anyway."""
        return (values,) if torch.is_grad_enabled() else values.split(self.class_block, dim=1)

    def embed_costs(self, costs: Costs) -> Tensor:
        """`[B, t, C, h, w]`: both maps embedded by a 7x7 convolution, averaged, projected.

        All of this is linear, and a 1x1 convolution and a resize can change places, so each map needs a single 7x7
        convolution to C channels instead of one to `source_channels`.
        """
        projection = self.cost_fusion.weight[:, :, 0, 0] / 2
        embeds: list[Any] = list(self.costs)
        kernels = [torch.einsum("cs,spyx->cpyx", projection, embed.weight) for embed in embeds]
        bias = projection @ sum(embed.bias for embed in embeds) + self.cost_fusion.bias
        fine, coarse = (
            F.conv2d(cost.flatten(0, 1), kernel, padding=3) for cost, kernel in zip(costs, kernels, strict=True)
        )
        embedded = fine + _resize(coarse, fine) + bias[:, None, None]
        return embedded.unflatten(0, costs.fine.shape[:2])

    def text_guidance(self, text: Tensor) -> Tensor:
        """`[B, K, C]` of `[B, K, P, D]`."""
        return F.gelu(self.text(F.normalize(text.mean(dim=2), dim=-1)))

    def _decode(self, block: Tensor, terms: Sequence[Tensor]) -> Tensor:
        """`[B, t, C, h, w]` -> `[B, t, 4h, 4w]`"""
        for stage, term in zip(self.decoder, terms, strict=True):
            block = stage(block, term)
        return self.head(block.flatten(0, 1))[:, 0].unflatten(0, block.shape[:2])


def _stages(widths: Sequence[int], guidance: Sequence[int]) -> list[UpsamplingFusion]:
    """The first keeps the grid, the others double it."""
    stages: list[UpsamplingFusion] = [
        SameGridFusion(in_channels=widths[0], out_channels=widths[1], visual_channels=guidance[0])
    ]
    for source, target, visual in zip(widths[1:-1], widths[2:], guidance[1:], strict=True):
        stages.append(
            UpsamplingFusion(
                in_channels=source,
                out_channels=target,
                visual_channels=visual,
                upsampled_channels=target,
                group_size=_GROUP_SIZE,
            )
        )
    return stages


def _resize(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)

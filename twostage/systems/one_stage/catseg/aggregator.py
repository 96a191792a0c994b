"""CAT-Seg's aggregator: cost embedding, spatial and class aggregation, upsampling decoder (Cho et al., CVPR 2024, section 3).

Classes are worked on in blocks, so that memory does not grow with their number beyond the coarse class maps.

Legend: V views, T classes (t of a block), P prompt templates, D embedding size, C channels, G guidance channels, h x w grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from twostage.inference.fourier import wide_convolution
from twostage.systems.one_stage.cost_aggregation.fusion import UpsamplingFusion
from twostage.systems.one_stage.cost_aggregation.head import LogitHead
from twostage.systems.one_stage.cost_aggregation.layer import class_slices
from twostage.systems.one_stage.cost_aggregation.parts import Neighbours


class Guidance(NamedTuple):
    """What the image tells: `appearance` `[V, G, h, w]` (None: no guidance), and for each stage of the decoder a map on the
    grid that it upsamples to.
    """

    appearance: Tensor | None
    decoder: list[Tensor]

    def of_views(self, views: slice) -> Guidance:
        """That of some of the views."""
        return Guidance(
            None if self.appearance is None else self.appearance[views], [maps[views] for maps in self.decoder]
        )


class Aggregator(nn.Module):
    """From a cost map to logits of four times its resolution."""

    def __init__(
        self,
        *,
        cost_channels: int,
        embedding: int,
        appearance_source: int,
        decoder_sources: Sequence[int],
        layers: Sequence[nn.Module],
        channels: int,
        appearance_channels: int,
        text_channels: int,
        decoder_channels: Sequence[int],
        decoder_guidance: Sequence[int],
        cost: bool = True,
        neighbours: Neighbours | None = None,
    ) -> None:
        """
        Args:
            cost_channels: of the cost map, P or a multiple.
            embedding: D.
            appearance_source, decoder_sources: channels of the maps that guidance is projected from.
            appearance_channels, text_channels: of the guidance of spatial and of class aggregation; 0 for none.
            layers: `AggregatorLayer`s or what takes their place.
            decoder_channels, decoder_guidance: of the decoder's two stages.
            cost: False aggregates image and text features instead of their similarity (the paper's baseline).
            neighbours: which classes each class reads in class aggregation; None for all.
        """
        super().__init__()
        if cost:
            self.embed = nn.Conv2d(cost_channels, channels, kernel_size=7, padding=3)
        else:
            self.embed = nn.Conv2d(embedding, channels, kernel_size=7, padding=3)
            self.embed_text = nn.Linear(embedding, channels)
        self.cost = cost
        self.neighbours = neighbours
        self.appearance = self.text = None
        if appearance_channels:
            self.appearance = nn.Conv2d(appearance_source, appearance_channels, kernel_size=3, padding=1)
        if text_channels:
            self.text = nn.Linear(embedding, text_channels)
        self.decoder_guidance = nn.ModuleList(
            nn.Conv2d(source, target, kernel_size=3, padding=1)
            for source, target in zip(decoder_sources, decoder_guidance, strict=True)
        )
        self.layers = nn.ModuleList(layers)
        widths = [channels, *decoder_channels]
        self.decoder = nn.ModuleList(
            UpsamplingFusion(in_channels=source, out_channels=target, visual_channels=visual)
            for source, target, visual in zip(widths, decoder_channels, decoder_guidance, strict=False)
        )
        self.head = LogitHead(widths[-1])

    def guidance(self, appearance: Tensor, decoder: Sequence[Tensor]) -> Guidance:
        """Projections of a map `[V, C, h, w]` on CLIP's grid, and of those for the decoder's stages."""
        return Guidance(
            None if self.appearance is None else F.relu(self.appearance(appearance)),
            [F.relu(project(maps)) for project, maps in zip(self.decoder_guidance, decoder, strict=True)],
        )

    def forward(self, embeddings: Tensor, cost: Tensor, text: Tensor, guidance: Guidance) -> Tensor:
        """Logits `[V, T, 4h, 4w]`.

        Args:
            embeddings: `[V, D, h, w]`, read only where features are aggregated instead of the cost.
            cost: `[V, T, P or 2 P, h, w]`.
            text: unit text embeddings `[V, T, P, D]`.

        In evaluation one view after the other: what must be held of all classes at a time is held of one view only.
        """
        if self.training:
            return self._forward(embeddings, cost, text, guidance)
        views = [slice(view, view + 1) for view in range(len(cost))]
        return torch.cat([self._forward(embeddings[v], cost[v], text[v], guidance.of_views(v)) for v in views])

    def _forward(self, embeddings: Tensor, cost: Tensor, text: Tensor, guidance: Guidance) -> Tensor:
        """`forward` with all views at once."""
        with record_function("aggregation"):
            blocks = self._aggregate(embeddings, cost, F.normalize(text.mean(dim=2), dim=-1), guidance.appearance)
        with record_function("decoder"):
            stages: list[Any] = list(self.decoder)
            terms = [stage.visual_term(maps) for stage, maps in zip(stages, guidance.decoder, strict=True)]
            return torch.cat([self._decode(block, terms) for block in blocks], dim=1)

    def _aggregate(self, embeddings: Tensor, cost: Tensor, text: Tensor, appearance: Tensor | None) -> list[Tensor]:
        """Class maps in blocks `[V, t, C, h, w]`; `text` `[V, T, D]` is the mean over templates."""
        parts = class_slices(cost, keep_gradients=torch.is_grad_enabled())
        maps = len(embeddings) * (len(cost[0, parts[0]]) if self.cost else 1)
        embed = wide_convolution(self.embed, maps, (cost.shape[3], cost.shape[4]))
        blocks = [self._embed(embed, embeddings, cost[:, part], text[:, part]) for part in parts]
        words = None if self.text is None else [F.relu(self.text(text[:, part])) for part in parts]
        neighbours = None if self.neighbours is None else self.neighbours(text)
        for layer in self.layers:
            blocks = layer(blocks, appearance, words, neighbours)
        return blocks

    def _embed(self, embed: Callable[[Tensor], Tensor], embeddings: Tensor, cost: Tensor, text: Tensor) -> Tensor:
        """`[V, t, C, h, w]`"""
        if self.cost:
            return embed(cost.flatten(0, 1)).unflatten(0, cost.shape[:2])
        words: Tensor = self.embed_text(text)
        return embed(embeddings)[:, None] + words[..., None, None]

    def _decode(self, block: Tensor, terms: Sequence[Tensor]) -> Tensor:
        """`[V, t, C, h, w]` -> `[V, t, 4h, 4w]`"""
        for stage, term in zip(self.decoder, terms, strict=True):
            block = stage(block, term)
        return self.head(block.flatten(0, 1))[:, 0].unflatten(0, block.shape[:2])

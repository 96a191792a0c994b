"""PCA-Seg's layer: spatial and class aggregation side by side, twice (Parallel Cost Aggregation).

Legend: V views, t classes of a block, C channels, G guidance channels, h x w grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from twostage.systems.one_stage.cost_aggregation.class_attention import ClassAggregation
from twostage.systems.one_stage.cost_aggregation.parts import SpatialLayer
from twostage.systems.one_stage.pcaseg.fusion import ExpertFusion

_EPS = 1e-6


class Orthogonality:
    """Collects, in training, how much the two branches of every block have in common; `PassLosses`."""

    def __init__(self, *, weight: float) -> None:
        self.weight = weight
        self._reported: list[Tensor] = []

    def report(self, spatial: Tensor, classes: Tensor) -> None:
        """The branches `[V, t, C, h, w]` of a block: the mean squared cosine over their channels."""
        lengths = (spatial.norm(dim=2) + _EPS) * (classes.norm(dim=2) + _EPS)
        self._reported.append(((spatial * classes).sum(dim=2) / lengths).square().mean())

    def take(self) -> dict[str, Tensor]:
        """The weighted mean over the blocks of the pass just made."""
        reported, self._reported = self._reported, []
        return {"loss_orthogonality": self.weight * torch.stack(reported).mean()}


class ParallelBlock(nn.Module):
    """Both aggregations of the same class maps, fused by experts; no residual path around them."""

    def __init__(
        self, *, spatial: SpatialLayer, classes: ClassAggregation, fusion: ExpertFusion, losses: Orthogonality
    ) -> None:
        super().__init__()
        self.spatial = spatial
        self.classes = classes
        self.fusion = fusion
        self.losses = losses

    def forward(
        self, blocks: list[Tensor], appearance: Tensor | None, text: Sequence[Tensor] | None, neighbours: Tensor | None
    ) -> list[Tensor]:
        """See `ParallelLayer`."""
        guidance = self.spatial.norm_guidance(appearance)
        fused = []
        for block, classes in zip(blocks, self.classes.aggregate(blocks, text, neighbours), strict=True):
            spatial = self.spatial(block, guidance)
            if self.training:
                self.losses.report(spatial, classes)
            fused.append(self.fusion(spatial, classes))
        return fused


class ParallelLayer(nn.Module):
    """Two blocks, one after the other; takes the place of `AggregatorLayer`."""

    def __init__(self, *, blocks: Sequence[ParallelBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self,
        blocks: list[Tensor],
        appearance: Tensor | None,
        text: Sequence[Tensor] | None,
        neighbours: Tensor | None = None,
    ) -> list[Tensor]:
        """Class maps in blocks `[V, t, C, h, w]`; `appearance` `[V, G, h, w]`, `text` per block `[V, t, G]`."""
        for block in self.blocks:
            blocks = block(blocks, appearance, text, neighbours)
        return blocks

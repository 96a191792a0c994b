"""One decoder stage of SED: feature aggregation over space and classes, then skip-layer fusion (SED, section 3.2, figure 3).

Legend: B images, t classes of a block, C channels, h x w grid.
"""

from __future__ import annotations

from collections.abc import Callable

from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from twostage.inference.rows import run_mlps_by_rows
from twostage.norms import DecayedLayerNorm
from twostage.systems.one_stage.cost_aggregation.blocks import ClassBlocks, MadeBlocks, held
from twostage.systems.one_stage.cost_aggregation.class_attention import ClassAggregation
from twostage.systems.one_stage.cost_aggregation.fusion import UpsamplingFusion


class SpatialAggregation(nn.Module):
    """A ConvNeXt block with a large kernel on the map of each class (layer scale starts at 1)."""

    def __init__(self, *, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.block = ConvNeXtBlock(channels, kernel_size=kernel_size, ls_init_value=1.0, norm_layer=DecayedLayerNorm)
        run_mlps_by_rows(self.block)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, t, C, h, w]` -> the same shape."""
        return self.block(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class DecoderStage(nn.Module):
    """Spatial aggregation, class aggregation, fusion; doubles the grid."""

    def __init__(
        self, *, spatial: Callable[[Tensor], Tensor], classes: ClassAggregation, fusion: UpsamplingFusion
    ) -> None:
        super().__init__()
        self.spatial = spatial
        self.classes = classes
        self.fusion = fusion

    def forward(
        self,
        blocks: ClassBlocks,
        visual: Tensor,
        cost_guidance: Callable[[int], Tensor],
        neighbours: Tensor | None = None,
        *,
        values: int = 0,
    ) -> ClassBlocks:
        """Blocks of classes `[B, t, C, h, w]`, which nobody else reads any more -> blocks `[B, t, C', 2h, 2w]`.

        Args:
            visual: guidance `[B, V, 2h, 2w]` that classes share.
            cost_guidance: of a block, `[B, t, G, 2h, 2w]`, by its position.
            neighbours: which classes each class may read, see `ClassAggregation.aggregate`.
            values: B T C h w, where that may be too much to be held.
        """
        visual_term = self.fusion.visual_term(visual)
        spatial = held(MadeBlocks(blocks, lambda block, _: self.spatial(block)), values=values)
        exchanged = self.classes.exchanged(spatial, neighbours=neighbours)
        return MadeBlocks(exchanged, lambda block, position: self.fusion(block, visual_term, cost_guidance(position)))

"""An aggregation layer: over the pixels of each class map, then over the classes of each pixel (CAT-Seg, section 3.3).

Legend: V views, T classes (t of a block), C channels, G guidance channels, h x w grid.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from twostage.recomputation import recomputable
from twostage.systems.one_stage.cost_aggregation.class_attention import ClassAggregation
from twostage.systems.one_stage.cost_aggregation.parts import SpatialLayer

# Class maps (views times classes) that are worked on at a time where no gradients are kept: as fast as 64, at half the memory.
_MAPS = 16


class AggregatorLayer(nn.Module):
    """Spatial, then class aggregation; either can be left out (the paper's ablation)."""

    def __init__(self, *, spatial: SpatialLayer | None, classes: ClassAggregation | None) -> None:
        super().__init__()
        self.spatial = spatial
        self.classes = classes

    @recomputable
    def forward(
        self,
        blocks: list[Tensor],
        appearance: Tensor | None,
        text: Sequence[Tensor] | None,
        neighbours: Tensor | None = None,
    ) -> list[Tensor]:
        """Class maps in blocks `[V, t, C, h, w]`; `appearance` `[V, G, h, w]`, `text` per block `[V, t, G]`.

        `neighbours`: which classes each class may read, see `ClassAggregation.aggregate`.
        """
        if self.spatial is not None:
            guidance = self.spatial.norm_guidance(appearance)
            blocks = [self.spatial(block, guidance) for block in blocks]
        if self.classes is not None:
            blocks = list(self.classes.aggregate(blocks, text, neighbours))
        return blocks


def class_slices(cost: Tensor, *, keep_gradients: bool) -> list[slice]:
    """Blocks of the class axis of `[V, T, ...]`: all at once where gradients are kept anyway."""
    if keep_gradients:
        return [slice(None)]
    views, classes = cost.shape[:2]
    step = max(1, _MAPS // views)
    return [slice(start, min(start + step, classes)) for start in range(0, classes, step)]

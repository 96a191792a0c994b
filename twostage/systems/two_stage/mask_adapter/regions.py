"""The adapter as a region classifier, for the masks of any source.

Legend: Q masks, H x W the image, D embedding size.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from twostage.clip.regions.contract import Regions
from twostage.clip.towers.pyramid import feature_pyramid
from twostage.clip.towers.vit import Tower
from twostage.systems.two_stage.heads import DenseCLIP
from twostage.systems.two_stage.maftp.transfer import Cells, dense_clip
from twostage.systems.two_stage.mask_adapter.adapter import MaskMaps, adapted_embeddings


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptedRegions:
    """What CLIP's ConvNeXt sees through the maps that a trained adapter makes of the masks; a `RegionClassifier`.

    Attributes:
        threshold: pixels of a higher mask probability are the region.
        chunk: masks that go through the adapter at a time.
        cells: how the adapter was trained to read CLIP's last stage, see `dense_clip`.
    """

    adapter: MaskMaps
    threshold: float
    chunk: int
    cells: Cells = "aligned"

    def __call__(self, visual: Tower, image: Tensor, probabilities: Tensor) -> Regions:
        """See `RegionClassifier`."""
        masks = probabilities > self.threshold
        res5 = feature_pyramid(visual, image[None])["res5"]
        dense = DenseCLIP(res5, dense_clip(visual, res5, self.cells))
        embeddings = adapted_embeddings(self.adapter, visual, dense, masks[None], self.chunk)[0]
        valid = masks.flatten(1).any(dim=1)
        return Regions(F.normalize(embeddings, dim=-1) * valid[:, None], valid)

"""The adapter as a region classifier, for the masks of any source.

Legend: Q masks, H x W the image, D embedding size.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from twostage.clip.regions.contract import Regions
from twostage.clip.towers.pyramid import feature_pyramid, to_whole_cells
from twostage.clip.towers.vit import Tower
from twostage.systems.two_stage.heads import DenseCLIP
from twostage.systems.two_stage.maftp.transfer import dense_clip
from twostage.systems.two_stage.mask_adapter.adapter import MaskMaps, adapted_embeddings
from twostage.systems.two_stage.mask_adapter.weights import read_adapter


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptedRegions:
    """What CLIP's ConvNeXt sees through the maps that a trained adapter makes of the masks; a `RegionClassifier`.

    Attributes:
        threshold: pixels of a higher mask probability are the region.
        chunk: masks that go through the adapter at a time.
    """

    adapter: MaskMaps
    threshold: float
    chunk: int

    def __call__(self, visual: Tower, image: Tensor, probabilities: Tensor) -> Regions:
        """See `RegionClassifier`."""
        masks = probabilities > self.threshold
        # As in the adapter's training.
        margin = to_whole_cells(masks.shape[1], masks.shape[2])
        res5 = feature_pyramid(visual, F.pad(image[None], margin))["res5"]
        # An adapter on FC-CLIP reads CLIP's last stage cell by cell.
        dense = DenseCLIP(res5, dense_clip(visual, res5, "aligned"))
        embeddings = adapted_embeddings(self.adapter, visual, dense, F.pad(masks, margin)[None], self.chunk)[0]
        valid = masks.flatten(1).any(dim=1)
        return Regions(F.normalize(embeddings, dim=-1) * valid[:, None], valid)


def adapter_from_config(cfg: CfgNode, embedding: int) -> MaskMaps:
    """The network of `MODEL.MASK_ADAPTER`, at random.

    Args:
        embedding: CLIP's embedding size.
    """
    keys = cfg.MODEL.MASK_ADAPTER
    return MaskMaps(
        embedding=embedding, width=keys.WIDTH, mask_channels=keys.MASK_CHANNELS, maps=keys.MAPS, blocks=keys.BLOCKS
    )


def adapted_regions_from_config(cfg: CfgNode, *, embedding: int, threshold: float, weights: str) -> AdaptedRegions:
    """The classifier with the adapter of `MODEL.MASK_ADAPTER`.

    Args:
        embedding, threshold: see `adapter_from_config` and `AdaptedRegions`.
        weights: a checkpoint of Mask-Adapter on FC-CLIP; "" leaves the adapter at random.

    Raises:
        UserError: the checkpoint does not fit.
    """
    adapter = adapter_from_config(cfg, embedding).eval()
    if weights:
        adapter.load_state_dict(read_adapter(weights, adapter.state_dict()))
    return AdaptedRegions(adapter=adapter, threshold=threshold, chunk=cfg.MODEL.MASK_ADAPTER.QUERY_CHUNK)

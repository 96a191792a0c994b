"""GroupViT: a ViT that gathers patches into groups (Xu et al., CVPR 2022), run by transformers."""

from __future__ import annotations

from typing import Any

import open_clip
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.text import TextEmbedder
from twostage.segmenter import shared_arguments
from twostage.systems.one_stage.groupvit.network import Network, TextTower, build_network, encode_windows
from twostage.systems.one_stage.groupvit.weights import groupvit_tables
from twostage.systems.one_stage.segclip.encoder import ImageEncoding
from twostage.systems.one_stage.segclip.grouped import LARGEST_SCALE, GroupSegmenter

# Whose byte-pair vocabulary GroupViT's text tower was trained with.
_TOKENIZER = "ViT-B-16"


@META_ARCH_REGISTRY.register()
class GroupViT(GroupSegmenter):
    """Frozen; its groups are named with words. No CLIP: image and text tower are its own."""

    @configurable
    def __init__(self, *, network: Network, **shared: Any) -> None:
        """
        Args:
            network: transformers' GroupViTModel.
            shared: see `GroupSegmenter`.
        """
        super().__init__(**shared)
        self.network = network
        self.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.GROUPVIT`, `MODEL.CLIP` (of the text alone) and `TEST.SLIDING`."""
        keys, sliding = cfg.MODEL.GROUPVIT, cfg.TEST.SLIDING
        network = build_network(keys.PRETRAINED, read_weights=not cfg.MODEL.WEIGHTS).eval()
        shared = shared_arguments(cfg, None, None)
        shared["text"] = TextEmbedder.from_config(cfg, TextTower(network), open_clip.get_tokenizer(_TOKENIZER))
        return {
            **shared,
            "network": network,
            "window": (sliding.TILE, sliding.STRIDE) if sliding.ENABLED else None,
            "background_threshold": keys.BACKGROUND_THRESHOLD,
        }

    def checkpoint_tables(self) -> tuple[CheckpointTable, ...]:
        """`MODEL.WEIGHTS` may be a `model.safetensors` of transformers or a `.pth` of the authors."""
        return groupvit_tables(len(self.network.vision_model.encoder.stages))

    @property
    def scale(self) -> Tensor:
        return self.network.logit_scale.exp().clamp(max=LARGEST_SCALE)

    @property
    def patch(self) -> tuple[int, int]:
        height, width = self.network.vision_model.embeddings.patch_embeddings.patch_size
        return height, width

    def encode_windows(self, windows: Tensor) -> ImageEncoding:
        return encode_windows(self.network, windows)

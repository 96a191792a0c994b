"""MaskCLIP: dense predictions from a frozen CLIP without any training (Zhou et al., ECCV 2022, section 3)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor

from twostage.clip.loading import load_clip_from_config
from twostage.clip.vit import require_vit, value_path_features
from twostage.predictions import DensePrediction, Frames
from twostage.segmenter import OpenVocabularySegmenter, frames_of, text_embedder_from_config


class Encoded(NamedTuple):
    """Unit dense features `[B, D, h, w]` and where they lie."""

    features: Tensor
    frames: Frames


@META_ARCH_REGISTRY.register()
class MaskCLIP(OpenVocabularySegmenter):
    """The untrained dense-CLIP baseline: cosine similarity of value-path patch features with the text embeddings."""

    @configurable
    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        self.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.CLIP`."""
        clip, tokenizer = load_clip_from_config(cfg)
        require_vit(clip.visual, "MaskCLIP")
        return {
            "clip": clip,
            "text": text_embedder_from_config(cfg, clip, tokenizer),
            "size_divisibility": clip.visual.patch_size[0],
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def encode(self, images: ImageList) -> Encoded:
        features = value_path_features(self.clip.visual, images.tensor)
        return Encoded(F.normalize(features, dim=1), frames_of(images))

    def decode(self, encoded: Encoded, text: Tensor) -> DensePrediction:
        logits = self.clip.logit_scale.exp() * (text @ encoded.features.flatten(2)).unflatten(
            2, encoded.features.shape[2:]
        )
        return DensePrediction(logits=logits, frames=encoded.frames, num_classes=len(text))

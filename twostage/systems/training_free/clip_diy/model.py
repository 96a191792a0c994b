"""CLIP-DIY: whole crops of several sizes through an unchanged CLIP, and an objectness against the background.

Legend: D embedding size, h x w the grid of one size's crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable, Supply
from twostage.clip.loading import load_clip_from_config
from twostage.clip.statistics import Pictures
from twostage.clip.towers.vit import image_embeddings, require_vit
from twostage.foundation.loading import foundation_from_config
from twostage.foundation.vit import FoundationVit
from twostage.inference.mosaic import Mosaic
from twostage.inference.resampling import Size
from twostage.inference.sliding import TileGrid
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.training_free.clip_diy.found import Found, fitted
from twostage.systems.training_free.clip_diy.maps import CropSimilarities
from twostage.systems.training_free.clip_diy.weights import diy_table
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, LabelRule, NamePrediction
from twostage.systems.training_free.talk2dino.weights import frozen_reader_from_config
from twostage.vocabulary import Vocabulary


class PicturesWithOriginals(Pictures):
    """Pictures of the network's size, and each `[3, H, W]` as it was before."""

    originals: list[Tensor]


class CropEmbeddings(NamedTuple):
    """Unit embeddings `[D, h, w]` of one image's crops, a grid per size; the image's size; objectness at it, or None."""

    crops: list[Tensor]
    size: Size
    objectness: Tensor | None


class Words(NamedTuple):
    """Unit rows `[C, D]`, and whether class 0 is the background."""

    rows: Tensor
    background: bool


@META_ARCH_REGISTRY.register()
class ClipDiy(OpenVocabularySegmenter[list[CropEmbeddings], Words]):
    """A frozen CLIP, and FOUND where objectness is asked for."""

    @configurable
    def __init__(
        self,
        *,
        foundation: FoundationVit | None,
        sides: Sequence[int],
        crop_size: Size,
        crops_per_batch: int,
        read_frozen: Supply,
        **shared: Any,
    ) -> None:
        """See `keys.py`; `read_frozen` reads CLIP's and DINO's own weights, `shared` is `OpenVocabularySegmenter`'s."""
        super().__init__(**shared)
        self.foundation = foundation
        self.found = None if foundation is None else Found(width=foundation.shape.width)
        self.requires_grad_(False)
        self.sides = sides
        self.crop_size = crop_size
        self.crops_per_batch = crops_per_batch
        self.read_frozen = read_frozen

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.CLIP_DIY`, `MODEL.FOUNDATION` and `MODEL.CLIP`."""
        clip, tokenizer = load_clip_from_config(cfg)
        require_vit(clip.visual, "CLIP-DIY")
        keys = cfg.MODEL.CLIP_DIY
        foundation = foundation_from_config(cfg) if keys.OBJECTNESS else None
        assert foundation is None or isinstance(foundation, FoundationVit), "others are refused by the keys' check"
        height, width = clip.visual.image_size
        return {
            **shared_arguments(cfg, clip, tokenizer),
            "foundation": foundation,
            "sides": tuple(keys.CROPS),
            "crop_size": (keys.CROP_SIZE, keys.CROP_SIZE) if keys.CROP_SIZE else (height, width),
            "crops_per_batch": keys.CROPS_PER_BATCH,
            "read_frozen": frozen_reader_from_config(cfg),
        }

    def checkpoint_table(self) -> CheckpointTable:
        """`MODEL.WEIGHTS` is FOUND's head; the frozen networks' weights are read from their own."""
        return diy_table(self.read_frozen)

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Words:
        """A row per class, the background's among them."""
        return Words(self.text(vocabulary), len(vocabulary) > 1 and vocabulary.names[0].casefold() == "background")

    def preprocess(self, batch: list[dict[str, Any]]) -> PicturesWithOriginals:
        """As every system's, with the pictures before they were resized (where the config asks for them)."""
        device = self.units.mean.device
        made = PicturesWithOriginals([entry["image"].to(device) for entry in batch], self.units)
        made.originals = [entry.get("original", entry["image"]).to(device) for entry in batch]
        return made

    def encode(self, images: Pictures) -> list[CropEmbeddings]:
        """Crops of each image through CLIP, and its objectness."""
        assert isinstance(images, PicturesWithOriginals), "what `preprocess` makes"
        return [
            self._encode_one(picture.float(), original)
            for picture, original in zip(images.pixels, images.originals, strict=True)
        ]

    def _encode_one(self, picture: Tensor, original: Tensor) -> CropEmbeddings:
        size = (picture.shape[-2], picture.shape[-1])
        crops = [self._embed_crops(picture, side) for side in self.sides]
        objectness = None
        if self.found is not None and self.foundation is not None:
            objectness = fitted(self.found(self.foundation, original), size)
        return CropEmbeddings(crops, size, objectness)

    def _embed_crops(self, picture: Tensor, side: int) -> Tensor:
        """Unit embeddings `[D, h, w]` of the crops of one size; the last ones are pushed back to end at the border."""
        size = (picture.shape[-2], picture.shape[-1])
        step = max(1, side // 2)
        mosaic = Mosaic(tiles=TileGrid.covering(size, tile=(side, side), stride=(step, step)))
        parts = [
            image_embeddings(self.clip.visual, self.as_seen(some))
            for some in mosaic.cut(picture).split(self.crops_per_batch)
        ]
        return mosaic.assemble(F.normalize(torch.cat(parts), dim=-1)[..., None, None])

    def as_seen(self, crops: Tensor) -> Tensor:
        """Crops `[N, 3, h, w]` on 0..255 as CLIP takes them: of its size and in its units."""
        if tuple(crops.shape[-2:]) != self.crop_size:
            crops = F.interpolate(crops, size=self.crop_size, mode="bicubic", align_corners=False, antialias=True)
            # The published resize keeps whole pixels between 0 and 255.
            crops = crops.round().clamp(0, 255)
        return self.units(crops)

    def decode(self, encoded: list[CropEmbeddings], text: Words) -> NamePrediction:
        return NamePrediction(
            images=[self._maps(image, text) for image in encoded],
            classes=torch.arange(len(text.rows), device=text.rows.device),
            num_classes=len(text.rows),
            rule=LabelRule(logit_scale=1.0),
        )

    def _maps(self, image: CropEmbeddings, text: Words) -> ImageMaps:
        objectness = image.objectness if text.background else None
        similarities = CropSimilarities(text.rows, image.crops, image.size, objectness)
        return ImageMaps(similarities, Mosaic(tiles=TileGrid.whole(image.size), through_canvas=False))

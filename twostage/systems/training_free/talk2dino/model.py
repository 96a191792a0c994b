"""Talk2DINO: DINOv2's patches, named by CLIP's words through a learnt projection.

Legend: C classes, K = C without the background, W the image tower's width, D CLIP's embedding size, h x w a window's grid.
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
from twostage.clip.statistics import Pictures, PixelUnits
from twostage.clip.templates import TEMPLATES
from twostage.clip.text import TextEmbedder
from twostage.foundation.loading import IMAGENET_STATISTICS, foundation_from_config
from twostage.foundation.vit import FoundationVit
from twostage.inference.mosaic import Mosaic
from twostage.inference.pamr import Pamr
from twostage.inference.resampling import Size
from twostage.inference.sliding import TileGrid
from twostage.segmenter import shared_arguments
from twostage.systems.captioned import CaptionLearner
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, LabelRule, NamePrediction
from twostage.systems.training_free.talk2dino.head import WordProjection, clean_background, features_and_attention
from twostage.systems.training_free.talk2dino.losses import caption_contrast, head_embeddings
from twostage.systems.training_free.talk2dino.weights import frozen_reader_from_config, talk2dino_table
from twostage.vocabulary import Vocabulary


class WindowFeatures(NamedTuple):
    """Of one image: patches `[windows, W, h, w]`, the class token's attention `[windows, H, h * w]`, where the windows lie,
    and their pixels `[windows, 3, height, width]` on 0..255."""

    features: Tensor
    attention: Tensor
    mosaic: Mosaic
    pixels: Tensor


class Words(NamedTuple):
    """Unit rows `[K, W]` in the image tower's space, and whether class 0 is the background, which has none."""

    rows: Tensor
    background: bool


@META_ARCH_REGISTRY.register()
class Talk2Dino(CaptionLearner):
    """A frozen DINOv2, a frozen CLIP text tower, and between them a projection of two layers, which learns from captions."""

    @configurable
    def __init__(
        self,
        *,
        foundation: FoundationVit,
        projection: WordProjection,
        tile: int,
        stride: int,
        window_side: int,
        background_score: float,
        cleaning: float,
        pamr_steps: int,
        pamr_dilations: Sequence[int],
        windows_per_batch: int,
        read_clip: Supply,
        **shared: Any,
    ) -> None:
        """See `keys.py`; `tile` 0 means the whole image, `read_clip` reads the frozen networks' own weights, `shared` is
        `OpenVocabularySegmenter`'s."""
        super().__init__(**shared)
        self.foundation = foundation
        self.projection = projection
        self.requires_grad_(False)
        self.projection.requires_grad_(True)
        self.foundation_units = PixelUnits(IMAGENET_STATISTICS)
        self.tile, self.stride = tile, stride
        self.window_side = window_side
        self.background_score = background_score
        self.cleaning = cleaning
        self.pamr_steps, self.pamr_dilations = pamr_steps, pamr_dilations
        self.windows_per_batch = windows_per_batch
        self.read_clip = read_clip

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TALK2DINO`, `MODEL.FOUNDATION`, `MODEL.CLIP` and `TEST.SLIDING`."""
        clip, tokenizer = load_clip_from_config(cfg)
        foundation = foundation_from_config(cfg)
        assert isinstance(foundation, FoundationVit), "others are refused by the keys' check"
        keys, sliding = cfg.MODEL.TALK2DINO, cfg.TEST.SLIDING
        shared = shared_arguments(cfg, clip, tokenizer)
        shared["text"] = TextEmbedder(
            clip=clip,
            tokenizer=tokenizer,
            templates=TEMPLATES[cfg.MODEL.CLIP.TEMPLATES],
            split_synonyms=False,
            plain=True,
            batch_size=cfg.MODEL.CLIP.TEXT_BATCH_SIZE,
            cache_folder=cfg.MODEL.CLIP.TEXT_CACHE,
        )
        return {
            **shared,
            "foundation": foundation,
            "projection": WordProjection(text_width=_text_width(clip), width=foundation.shape.width),
            "tile": sliding.TILE if sliding.ENABLED else 0,
            "stride": sliding.STRIDE,
            "window_side": keys.WINDOW_SIDE,
            "background_score": keys.BACKGROUND_SCORE,
            "cleaning": keys.CLEANING,
            "pamr_steps": keys.PAMR_STEPS,
            "pamr_dilations": tuple(keys.PAMR_DILATIONS),
            "windows_per_batch": keys.WINDOWS_PER_BATCH,
            "read_clip": frozen_reader_from_config(cfg),
        }

    def checkpoint_table(self) -> CheckpointTable:
        """`MODEL.WEIGHTS` is the published projection; the frozen networks' weights are read from their own."""
        return talk2dino_table(self.read_clip)

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Words:
        """A row per class, but for a first class called "background" where that has a score of its own."""
        names = vocabulary.names
        background = bool(self.background_score) and names[0].casefold() == "background" and len(names) > 1
        return Words(self.projection(self.text.embed_names(names[1:] if background else names)), background)

    def caption_losses(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The contrast of a batch of pairs; across processes each has its own."""
        with torch.no_grad():
            windows = torch.stack([picture.float() for picture in self.preprocess(batch).pixels])
            heads = head_embeddings(*features_and_attention(self.foundation, self.as_seen(windows)))
            text = self.text.encode_captions(
                [entry["caption"] for entry in batch], max_tokens=int(self.text.tower.context_length)
            )
        return {"loss_contrastive": caption_contrast(heads, self.projection(text))}

    def encode(self, images: Pictures) -> list[WindowFeatures]:
        """Patches and attention of each image's windows."""
        return [self._encode_one(picture.float()) for picture in images.pixels]

    def _encode_one(self, picture: Tensor) -> WindowFeatures:
        size: Size = (picture.shape[-2], picture.shape[-1])
        tiles = TileGrid.whole(size)
        if self.tile:
            tiles = TileGrid.covering(size, tile=(self.tile, self.tile), stride=(self.stride, self.stride))
        mosaic = Mosaic(tiles=tiles, align_corners=True)
        pixels = mosaic.cut(picture)
        parts = [
            features_and_attention(self.foundation, self.as_seen(windows))
            for windows in pixels.split(self.windows_per_batch)
        ]
        features, attention = (torch.cat(part) for part in zip(*parts, strict=True))
        return WindowFeatures(features, attention, mosaic, pixels)

    def as_seen(self, windows: Tensor) -> Tensor:
        """Windows on 0..255 as the image tower takes them: of its size and in its units."""
        side = (self.window_side, self.window_side)
        if tuple(windows.shape[-2:]) != side:
            windows = F.interpolate(windows, size=side, mode="bilinear", align_corners=False, antialias=True)
        return self.foundation_units(windows)

    def window_scores(self, encoded: WindowFeatures, index: int, text: Tensor) -> Tensor:
        """`[K, h, w]` of one window, cleaned."""
        features = encoded.features[index]
        scores = torch.einsum("cd,dhw->chw", text, F.normalize(features, dim=0)).sigmoid()
        if self.cleaning:
            scores = clean_background(scores, features, encoded.attention[index], text, self.cleaning)
        return scores

    def refined(self, scores: Tensor, pixels: Tensor) -> Tensor:
        """`[K, height, width]` of one window at its own size, after PAMR on its pixels `[3, height, width]`."""
        size = (pixels.shape[-2], pixels.shape[-1])
        fine = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=True)[0]
        return Pamr(pixels, steps=self.pamr_steps, dilations=self.pamr_dilations)(fine)

    def decode(self, encoded: list[WindowFeatures], text: Words) -> NamePrediction:
        classes = len(text.rows) + text.background
        return NamePrediction(
            images=[ImageMaps(self.maps(image, text), image.mosaic) for image in encoded],
            classes=torch.arange(classes, device=text.rows.device),
            num_classes=classes,
            rule=LabelRule(logit_scale=1.0),
        )

    def maps(self, image: WindowFeatures, text: Words) -> Tensor:
        """Mosaic `[C, rows * h, columns * w]`; after PAMR a window's grid is its pixels."""
        windows = []
        for index, pixels in enumerate(image.pixels):
            scores = self.window_scores(image, index, text.rows)
            windows.append(self.refined(scores, pixels) if self.pamr_steps else scores)
        maps = torch.stack(windows)
        if text.background:
            maps = torch.cat([torch.full_like(maps[:, :1], self.background_score), maps], dim=1)
        return image.mosaic.assemble(maps)


def _text_width(clip: Any) -> int:
    projection = getattr(clip, "text", clip).text_projection
    return projection.out_features if hasattr(projection, "out_features") else projection.shape[1]

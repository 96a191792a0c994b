"""What systems share whose regions are groups of patches, named with words: SegCLIP and GroupViT, whose authors' evaluation
(Xu et al., CVPR 2022) both take."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor

from twostage.errors import UserError
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.segmenter import OpenVocabularySegmenter
from twostage.systems.one_stage.segclip.encoder import ImageEncoding
from twostage.systems.one_stage.segclip.windows import Windows, region_prediction, window_grid
from twostage.systems.one_stage.segclip.zero_shot import add_background, group_affinities, group_owners
from twostage.vocabulary import Vocabulary

BACKGROUND = "background"
# The logit scale stays below this, as in CLIP's own training.
LARGEST_SCALE = 100.0


class GroupText(NamedTuple):
    """Unit text embeddings `[C, D]`, and whether a background without a prompt comes before them."""

    text: Tensor
    background: bool


class Encoded(NamedTuple):
    """The windows of each image."""

    windows: list[Windows]
    geometry: Geometry


class GroupSegmenter(OpenVocabularySegmenter[Encoded, GroupText]):
    """Windows to groups of patches to named regions; a system says how a window is encoded."""

    def __init__(self, *, window: tuple[int, int] | None, background_threshold: float, **shared: Any) -> None:
        """
        Args:
            window: side of the square windows and their stride, in pixels; None takes the image as one.
            background_threshold: least affinity of a group that is not background, where the vocabulary begins with
                "background".
            shared: see `OpenVocabularySegmenter`.
        """
        super().__init__(**shared)
        self.window = window
        self.background_threshold = background_threshold

    @property
    @abc.abstractmethod
    def scale(self) -> Tensor:
        """Factor of cosine similarities."""

    @property
    @abc.abstractmethod
    def patch(self) -> tuple[int, int]:
        """Size of a patch in pixels."""

    @abc.abstractmethod
    def encode_windows(self, windows: Tensor) -> ImageEncoding:
        """Groups of normalised windows `[N, 3, h, w]`."""

    def embed_vocabulary(self, vocabulary: Vocabulary) -> GroupText:
        """A first name "background" is not asked for: it is what fits no other name."""
        background = vocabulary.names[0] == BACKGROUND
        if background and len(vocabulary) == 1:
            raise UserError("the vocabulary holds nothing but 'background'; give a name to look for")
        names = Vocabulary(vocabulary.names[1:]) if background else vocabulary
        return GroupText(self.text(names), background)

    def encode(self, images: ImageList) -> Encoded:
        geometry = Geometry.of(images)
        windows = []
        for image, (height, width) in zip(images.tensor, geometry.images, strict=True):
            grid = window_grid((height, width), self.window)
            tiles = at_least_a_patch(grid.cut(image[None, :, :height, :width]), self.patch)
            encoding = self.encode_windows(tiles)
            windows.append(Windows(grid, encoding, group_owners(encoding, grid.tile)))
        return Encoded(windows, geometry)

    def decode(self, encoded: Encoded, text: GroupText) -> MaskPrediction:
        scores = []
        for windows in encoded.windows:
            affinities = group_affinities(windows.encoding, text.text, self.scale)
            if text.background:
                affinities = add_background(affinities, self.background_threshold)
            scores.append(affinities)
        return region_prediction(encoded.windows, scores, encoded.geometry)


def at_least_a_patch(tiles: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Tiles `[N, 3, h, w]`, zero-padded right and bottom where a side is shorter than a patch (pictures a few pixels thin)."""
    height, width = tiles.shape[-2:]
    return F.pad(tiles, (0, max(0, patch[1] - width), 0, max(0, patch[0] - height)))

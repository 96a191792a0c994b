"""twostage from Python: load a system, hand it a picture and some words.

>>> segmenter = load("toybox/maskclip", device="cpu")
>>> result = segmenter(np.zeros((120, 160, 3), np.uint8), ["sky", "blue star, star"])
>>> result.labels.shape, result.names
((120, 160), ('sky', 'blue star, star'))
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from tqdm import tqdm

from twostage.checkpoint.untrained import warn_if_untrained
from twostage.config import load_config
from twostage.config.finding import find_config
from twostage.contrast.choice import Others, OthersChoice
from twostage.data.augmentation import evaluation_augmentations
from twostage.data.mapper import to_tensor
from twostage.errors import UserError
from twostage.machine import find_device
from twostage.pictures import Picture, as_rgb, read_ahead
from twostage.predictions.contrasted import FlooredPrediction
from twostage.results.panoptic import PanopticSegmentation
from twostage.results.segmentation import Segmentation
from twostage.segmenter import OpenVocabularySegmenter
from twostage.systems.loading import build_from_config
from twostage.vocabulary import Vocabulary

__all__ = [
    "EncodedImage",
    "Mapped",
    "PanopticSegmentation",
    "Picture",
    "Segmentation",
    "Segmenter",
    "as_rgb",
    "build_from_config",
    "find_config",
    "load",
]


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """A picture and all that a system computes of it without knowing the vocabulary."""

    pixels: np.ndarray
    features: Any

    def __repr__(self) -> str:
        """Without the arrays, which would fill pages."""
        height, width = self.pixels.shape[:2]
        return f"<EncodedImage of {width} x {height} pixels>"


class Mapped(NamedTuple):
    """What `Segmenter.map` made of one picture: a result, or the error that says why there is none."""

    picture: Picture
    result: Segmentation | None
    error: UserError | None


class Segmenter:
    """A loaded system, ready for pictures and vocabularies."""

    def __init__(self, model: OpenVocabularySegmenter, cfg: CfgNode) -> None:
        # One without numbers can be built, but looks at nothing.
        find_device(str(cfg.MODEL.DEVICE))
        warn_if_untrained(model, cfg)
        self.model = model.eval()
        self.cfg = cfg
        self._choice = OthersChoice(cfg.MODEL.CLIP.NAME, model.text)

    def __repr__(self) -> str:
        """Without the network, which would fill pages; `.model` shows it."""
        return f"<Segmenter {type(self.model).__name__}>"

    def __call__(
        self,
        image: Picture | EncodedImage,
        vocabulary: Sequence[str] | Vocabulary,
        *,
        others: Others = "few",
        min_score: float | None = None,
    ) -> Segmentation:
        """Segment `image` into the names of `vocabulary` ("sofa, couch" names one class by two synonyms).

        Args:
            image: a picture in any form that `as_rgb` reads, or what `encode` returned.
            others: contrast words, whose pixels are none of the names (-1): "auto" for the shipped ones, "few" for these
                where there are fewer than five names, words of your own, or None, which gives every pixel to a name.
            min_score: pixels whose best name scores less are none of them, either; on the scale of `Segmentation.scores`.

        Raises:
            UserError: unreadable picture, empty or duplicate vocabulary, a name too long for CLIP's context, contrast words
                that are asked for, or for a system whose classes are not words.
        """
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary.from_words(vocabulary)
        with torch.inference_mode():
            rivals = self.competitors(vocabulary, others)
            encoded = image if isinstance(image, EncodedImage) else self.encode(image)
            prediction = self.model.answer(encoded.features, vocabulary, rivals)
            if min_score is not None:
                prediction = FlooredPrediction(prediction=prediction, min_score=min_score)
            labels = prediction.label_maps([encoded.pixels.shape[:2]])[0]
        return Segmentation(
            labels=labels.cpu().numpy(),
            names=vocabulary.names,
            others=rivals,
            image=encoded.pixels,
            prediction=prediction,
        )

    def competitors(self, vocabulary: Vocabulary, others: Others = "few") -> tuple[str, ...]:
        """The contrast words that `others` means for `vocabulary`; see `__call__`.

        >>> segmenter = load("toybox/maskclip", device="cpu")
        >>> segmenter.competitors(Vocabulary(("blue star",)), ["grass", "red star"])
        ('grass', 'red star')
        """
        return self._choice(vocabulary, others)

    def map(
        self,
        pictures: Iterable[Picture],
        vocabulary: Sequence[str] | Vocabulary,
        *,
        others: Others = "few",
        min_score: float | None = None,
        progress: bool = True,
        ahead: int = 2,
    ) -> Iterator[Mapped]:
        """Segment many pictures; those that can't be read come with their error, and the others still get done.

        Args:
            pictures: each in any form that `as_rgb` reads, taken one by one.
            others, min_score: as in a call for one picture.
            progress: show a bar on stderr.
            ahead: pictures that are read while another is segmented, and held in memory until their turn.

        Raises:
            UserError: at once for words that can't be asked for; for a picture see `Mapped`.

        >>> segmenter = load("toybox/maskclip", device="cpu")
        >>> grey = np.full((60, 80, 3), 128, np.uint8)
        >>> for picture, result, error in segmenter.map([grey, "none.png"], ["sky", "sand"], progress=False):
        ...     print(result.labels.shape if result else error)
        (60, 80)
        image 'none.png' does not exist; replace or remove it
        """
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary.from_words(vocabulary)
        with torch.inference_mode():
            self.model.embed_vocabulary(vocabulary)
            others = self.competitors(vocabulary, others) or None
        if isinstance(pictures, str | bytes):
            raise UserError("map takes several pictures; give a list of them, or call the segmenter with the one")
        total = len(pictures) if isinstance(pictures, Sized) else None
        read = read_ahead(pictures, count=ahead)
        segment = functools.partial(self, vocabulary=vocabulary, others=others, min_score=min_score)
        return self._map(tqdm(read, total=total, desc="segmenting", disable=not progress), segment)

    def _map(
        self, pictures: Iterable[tuple[Picture, np.ndarray | UserError]], segment: Callable[[np.ndarray], Segmentation]
    ) -> Iterator[Mapped]:
        for picture, pixels in pictures:
            if isinstance(pixels, UserError):
                yield Mapped(picture, None, pixels)
            else:
                yield Mapped(picture, segment(pixels), None)

    def encode(self, image: Picture) -> EncodedImage:
        """Everything of a picture that does not depend on the words, so that changing them is cheap.

        >>> segmenter = load("toybox/maskclip", device="cpu")
        >>> photo = segmenter.encode(np.zeros((120, 160, 3), np.uint8))
        >>> coarse, fine = segmenter(photo, ["sky", "sand"]), segmenter(photo, ["red sand", "yellow sand"])
        """
        pixels = as_rgb(image)
        entry: dict[str, Any] = {"image": self.resized(pixels)}
        if self.cfg.INPUT.ORIGINAL:
            entry["original"] = to_tensor(pixels)
        if isinstance(image, str | Path):
            entry["file_name"] = str(image)
        with torch.inference_mode():
            return EncodedImage(pixels, self.model.encode(self.model.preprocess([entry])))

    def resized(self, pixels: np.ndarray) -> torch.Tensor:
        """A picture uint8 RGB `[H, W, 3]` at the size at which the system looks at it: `[3, h, w]`.

        >>> load("toybox/maskclip", device="cpu").resized(np.zeros((60, 80, 3), np.uint8)).shape
        torch.Size([3, 128, 171])
        """
        sample = T.AugInput(pixels)
        T.AugmentationList(evaluation_augmentations(self.cfg))(sample)
        return to_tensor(sample.image)


def load(
    config: str,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    opts: Sequence[str] = (),
) -> Segmenter:
    """A system by config name or file.

    Args:
        config: a name under configs/ ("san_vitb", "toybox/san") or a yaml file.
        weights: a checkpoint, ours or an official one: a file, "official" for the one that was published for the config, its
            name on the system's card, `hf://owner/repository/file` or an https address. None keeps the config's
            `MODEL.WEIGHTS`.
        device: "auto", "cpu", "cuda", ...
        precision: of computing: "float32", "bfloat16", "float16" (GPUs only), or "fast": whichever of them is fastest here.
        opts: further `KEY VALUE` overrides.

    Raises:
        UserError: unknown config, weights missing or of another system, ...
    """
    overrides = ["MODEL.DEVICE", device, "MODEL.PRECISION", precision, *opts]
    if weights is not None:
        overrides += ["MODEL.WEIGHTS", str(weights)]
    cfg = load_config(find_config(config), overrides)
    return Segmenter(build_from_config(cfg), cfg)

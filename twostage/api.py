"""twostage from Python: load a system, hand it a picture and some words.

>>> segmenter = load("toybox/maskclip", device="cpu")
>>> result = segmenter(np.zeros((120, 160, 3), np.uint8), ["sky", "blue star, star"])
>>> result.labels.shape, result.names
((120, 160), ('sky', 'blue star, star'))
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from twostage.checkpoint.checkpointer import load_weights
from twostage.checkpoint.safe_loading import load_checkpoint_file
from twostage.config import load_config
from twostage.data.augmentation import evaluation_augmentations
from twostage.data.images import own_output, read_rgb, rgb_of, rgb_of_array
from twostage.data.mapper import to_tensor
from twostage.data.segment_maps import segment_map_to_rgb
from twostage.errors import UserError, near_names
from twostage.files import atomic_path, write_text
from twostage.machine import resolve_device, user_path
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.prediction import Prediction
from twostage.predictions.segments import panoptic_segments
from twostage.segmenter import OpenVocabularySegmenter
from twostage.systems.building import build_model
from twostage.systems.cards import all_cards, config_path
from twostage.vocabulary import Vocabulary
from twostage.weights.find import weights_file

# Names that fit beside "none" into a label map of 8 bit.
_NONE_8_BIT = 255

Picture = str | os.PathLike[str] | bytes | IO[bytes] | np.ndarray | Image.Image | Tensor


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """A picture and all that a system computes of it without knowing the vocabulary."""

    pixels: np.ndarray
    features: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Which of the names each pixel shows.

    Attributes:
        labels: int64 `[H, W]`, indices into `names`; -1 where a system says that it is none of them.
        names: the vocabulary.
        image: uint8 RGB `[H, W, 3]`.
        prediction: the system's own output, for scores or panoptic segments.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    image: np.ndarray
    prediction: Prediction

    def mask(self, name: str) -> np.ndarray:
        """bool `[H, W]`: where `name` is.

        Raises:
            UserError: not in the vocabulary.
        """
        if name not in self.names:
            raise UserError(f"{name!r} is not in the vocabulary{near_names(name, self.names)}")
        return self.labels == self.names.index(name)

    def areas(self) -> dict[str, float]:
        """Share of the picture that each name covers, largest first; absent names are left out."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.names))
        order = np.argsort(-counts, kind="stable")
        return {self.names[i]: float(counts[i] / self.labels.size) for i in order if counts[i]}

    def scores(self) -> Tensor:
        """Scores `[C, H, W]`; holds one map per class."""
        return self.prediction.scores([self.labels.shape])[0]

    def overlay(self) -> np.ndarray:
        """uint8 RGB picture with the names painted over it and a legend."""
        from twostage.visualization.overlay import draw_segmentation

        return draw_segmentation(self.image, self.labels, self.names)

    def panoptic(self, things: Sequence[str], *, score_threshold: float = 0.8) -> PanopticSegmentation:
        """Segments that don't overlap: one per object of a name in `things`, one per other name.

        Raises:
            UserError: the system predicts no masks, or a thing is not in the vocabulary.
        """
        if not 0 <= score_threshold <= 1:
            raise UserError(f"score_threshold is {score_threshold!r}; it must lie between 0 and 1")
        if not isinstance(self.prediction, MaskPrediction):
            raise UserError("panoptic segments need a system that predicts masks, such as SAN, Mask2Former or OVSeg")
        for name in things:
            if name not in self.names:
                raise UserError(f"thing {name!r} is not in the vocabulary{near_names(name, self.names)}")
        indices = [self.names.index(name) for name in things]
        ((ids, segments),) = panoptic_segments(
            self.prediction, [self.labels.shape], indices, score_threshold=score_threshold
        )
        return PanopticSegmentation(ids=ids.cpu().numpy(), segments=tuple(segments), names=self.names, image=self.image)

    def save(self, folder: str | Path, stem: str) -> list[Path]:
        """Write `<stem>_overlay.png` and `<stem>_labels.png`; returns their paths.

        The label map holds indices into `names`, in 8 bit up to 255 names and in 16 above; the greatest number, 255 or 65535,
        stands for none of them. Its text chunks say so: `none` is that number, `names` a json list.

        Raises:
            UserError: more names than a PNG can tell apart, or a folder that can't be written.
        """
        folder = Path(folder)
        kind = np.uint8 if len(self.names) <= _NONE_8_BIT else np.uint16
        none = int(np.iinfo(kind).max)
        if len(self.names) > none:
            raise UserError(f"a label map on disk tells {none} names apart, these are {len(self.names)}; use `labels`")
        about = own_output()
        about.add_text("none", str(none))
        about.add_itxt("names", json.dumps(self.names, ensure_ascii=False))
        labels = Image.fromarray(np.where(self.labels < 0, none, self.labels).astype(kind))
        return [
            _save_picture(Image.fromarray(self.overlay()), folder / f"{stem}_overlay.png"),
            _save_picture(labels, folder / f"{stem}_labels.png", about),
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanopticSegmentation:
    """Which object or stuff each pixel belongs to.

    Attributes:
        ids: int32 `[H, W]`, 0 where there is no segment.
        segments: dicts with `id`, `category_id` (index into `names`) and `isthing`.
        names: the vocabulary.
        image: uint8 RGB `[H, W, 3]`.
    """

    ids: np.ndarray
    segments: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    image: np.ndarray

    def overlay(self) -> np.ndarray:
        """uint8 RGB picture with the segments painted over it and a legend."""
        from twostage.visualization.panoptic_overlay import draw_panoptic

        return draw_panoptic(self.image, self.ids, self.segments, self.names)

    def save(self, folder: str | Path, stem: str) -> list[Path]:
        """Write `<stem>_panoptic.png` (picture) and `<stem>_segments.png` (ids as R + 256 G + 65536 B), with the list of
        segments in `<stem>_segments.json`; returns their paths."""
        folder = Path(folder)
        listed = [{**s, "name": self.names[s["category_id"]]} for s in self.segments]
        write_text(folder / f"{stem}_segments.json", json.dumps(listed, indent=1))
        pictures = {
            f"{stem}_panoptic.png": Image.fromarray(self.overlay()),
            f"{stem}_segments.png": Image.fromarray(segment_map_to_rgb(self.ids)),
        }
        return [*(_save_picture(p, folder / n) for n, p in pictures.items()), folder / f"{stem}_segments.json"]


class Segmenter:
    """A loaded system, ready for pictures and vocabularies."""

    def __init__(self, model: OpenVocabularySegmenter, cfg: CfgNode) -> None:
        self.model = model.eval()
        self.cfg = cfg

    def __call__(self, image: Picture | EncodedImage, vocabulary: Sequence[str] | Vocabulary) -> Segmentation:
        """Segment `image` into the names of `vocabulary` ("sofa, couch" names one class by two synonyms).

        Args:
            image: a picture in any form that `as_rgb` reads, or what `encode` returned.

        Raises:
            UserError: unreadable picture, empty or duplicate vocabulary, a name too long for CLIP's context.
        """
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary.from_words(vocabulary)
        encoded = image if isinstance(image, EncodedImage) else self.encode(image)
        with torch.inference_mode():
            prediction = self.model.decode(encoded.features, self.model.embed_vocabulary(vocabulary))
            labels = prediction.label_maps([encoded.pixels.shape[:2]])[0]
        return Segmentation(
            labels=labels.cpu().numpy(), names=vocabulary.names, image=encoded.pixels, prediction=prediction
        )

    def encode(self, image: Picture) -> EncodedImage:
        """Everything of a picture that does not depend on the words, so that changing them is cheap.

        >>> segmenter = load("toybox/maskclip", device="cpu")
        >>> photo = segmenter.encode(np.zeros((120, 160, 3), np.uint8))
        >>> coarse, fine = segmenter(photo, ["sky", "sand"]), segmenter(photo, ["red sand", "yellow sand"])
        """
        pixels = as_rgb(image)
        sample = T.AugInput(pixels)
        T.AugmentationList(evaluation_augmentations(self.cfg))(sample)
        tensor = to_tensor(sample.image)
        with torch.inference_mode():
            return EncodedImage(pixels, self.model.encode(self.model.preprocess([{"image": tensor}])))


def load(
    config: str, *, weights: str | Path | None = None, device: str = "auto", opts: Sequence[str] = ()
) -> Segmenter:
    """A system by config name or file.

    Args:
        config: a name under configs/ ("san_vitb", "toybox/san") or a yaml file.
        weights: a checkpoint, ours or an official one: a file, "official" for the one that was published for the config, its
            name on the system's card, `hf://owner/repository/file` or an https address. None keeps the config's
            `MODEL.WEIGHTS`.
        device: "auto", "cpu", "cuda", ...
        opts: further `KEY VALUE` overrides.

    Raises:
        UserError: unknown config, weights missing or of another system, ...
    """
    overrides = ["MODEL.DEVICE", device, *opts]
    if weights is not None:
        overrides += ["MODEL.WEIGHTS", str(weights)]
    cfg = load_config(find_config(config), overrides)
    return Segmenter(build_from_config(cfg), cfg)


def build_from_config(cfg: CfgNode) -> OpenVocabularySegmenter:
    """The config's model on its device, with `MODEL.WEIGHTS` loaded where given, in eval mode.

    Raises:
        UserError: weights missing or of another system, or a model that is none of ours.
    """
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = resolve_device(cfg)
    # Read before the model is built: a wrong path should not cost the time of building.
    content = load_checkpoint_file(weights_file(cfg.MODEL.WEIGHTS)) if cfg.MODEL.WEIGHTS else None
    model = build_model(cfg)
    if not isinstance(model, OpenVocabularySegmenter):
        raise UserError(f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r} is no OpenVocabularySegmenter")
    if content is not None:
        load_weights(model, content, cfg.MODEL.WEIGHTS)
    return model.eval()


def find_config(name: str) -> str:
    """Path of a config given by file name, by its name under configs/, or by its name on an installed system's card.

    Raises:
        UserError: there is none.
    """
    if Path(name).is_file():
        return name
    package = Path(__file__).parent
    # Beside the package in a checkout, inside it when installed.
    folders = [folder for folder in (package.parent / "configs", package / "configs") if folder.is_dir()]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return str(folder / f"{name}.yaml")
    installed = config_path(name)
    if installed is not None:
        return str(installed)
    known = [str(p.relative_to(f).with_suffix("")) for f in folders for p in f.rglob("*.yaml")]
    known += [config for card in all_cards() if card.config_package for config in card.configs]
    known = sorted(k for k in known if not k.startswith("base/"))
    raise UserError(f"no config {name!r}{near_names(name, known)}; there are: {', '.join(known)}")


def as_rgb(image: Picture) -> np.ndarray:
    """uint8 RGB `[H, W, 3]` of anything that is a picture.

    Paths, bytes, open files and PIL images are turned upright as their EXIF data says. Arrays are `[H, W, 3]`, `[H, W]` or
    `[H, W, 1]` (grey) or `[H, W, 4]` (the fourth channel is dropped), tensors have their channels first, and their numbers
    are read as `twostage.data.images.eight_bits` says.

    Raises:
        UserError: unreadable, or something that is no picture; says what to give.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return read_rgb(io.BytesIO(image))
    if isinstance(image, str | os.PathLike):
        if not os.fspath(image):
            raise UserError("the picture's path is empty; give the path of a picture")
        return read_rgb(user_path(os.fspath(image)))
    if isinstance(image, Image.Image):
        return rgb_of(image)
    if isinstance(image, Tensor):
        return rgb_of_array(_channels_last(image))
    if isinstance(image, np.ndarray):
        return rgb_of_array(image)
    if callable(getattr(image, "read", None)):
        return read_rgb(image)
    raise UserError(
        f"a picture is a path, bytes, an open file, a PIL image, an array [H, W, 3] or a tensor [3, H, W]; this is "
        f"{_described(image)}"
    )


def _channels_last(image: Tensor) -> np.ndarray:
    """A tensor `[C, H, W]` or `[H, W]` as an array `[H, W, C]` or `[H, W]`."""
    array = image.detach().cpu()
    if array.dtype in (torch.bfloat16, torch.float16):
        array = array.float()
    if array.ndim == 3 and array.shape[0] not in (1, 3, 4) and array.shape[2] in (1, 3, 4):
        raise UserError(f"an image tensor is [3, H, W]; this is {list(array.shape)}: give tensor.permute(2, 0, 1)")
    return (array.permute(1, 2, 0) if array.ndim == 3 else array).numpy()


def _described(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    return (
        f"a {kind} of {len(value)} entries; give them one at a time" if isinstance(value, list | tuple) else f"a {kind}"
    )


def _save_picture(picture: Image.Image, path: Path, about: PngInfo | None = None) -> Path:
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=about or own_output())
    return path

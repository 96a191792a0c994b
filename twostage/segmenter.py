"""The contract that all systems share: preprocess -> encode -> (text) -> predict -> finish.

A system is a `META_ARCH_REGISTRY` entry that derives from `OpenVocabularySegmenter` and writes only what is its own:
`encode` (everything about an image that the vocabulary does not touch), `decode` (with the text, to a prediction) and
`losses`. Datasets, vocabulary, text embeddings, output, evaluator, trainer and checkpoints do not notice which one runs.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor, nn

from twostage.clip.loading import ClipModel, Tokenizer
from twostage.clip.templates import TEMPLATES
from twostage.clip.text import TextEmbedder
from twostage.errors import UserError
from twostage.predictions.masks import Frames, MaskPrediction, Prediction
from twostage.predictions.segments import instances, proposals
from twostage.vocabulary import Vocabulary

# Normalising a pixel and undoing it errs by less than this.
_ROUND_TRIP = 1e-3


class OpenVocabularySegmenter(nn.Module, abc.ABC):
    """Base of every system.

    Attributes:
        clip: the open_clip model, under open_clip's own parameter names.
        output: "labels" gives `sem_seg_labels` `[height, width]` (evaluation, demo), "scores" gives `sem_seg`
            `[C, height, width]` (Detectron2's convention, for parity and export).
        segments: what systems that predict masks add to their outputs.
    """

    clip: ClipModel
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        clip: ClipModel,
        text: TextEmbedder,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 0,
        output: Literal["labels", "scores"] = "labels",
    ) -> None:
        """
        Args:
            pixel_mean, pixel_std: RGB, on 0..255.
            size_divisibility: images are zero-padded right and bottom, after normalisation, to a multiple of this.
        """
        super().__init__()
        self.clip = clip
        self.text = text
        self.size_divisibility = size_divisibility
        self.output = output
        self.segments = SegmentOutput()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    @abc.abstractmethod
    def encode(self, images: ImageList) -> Any:
        """Everything about normalised, padded `images` that does not depend on the vocabulary."""

    @abc.abstractmethod
    def decode(self, encoded: Any, text: Any) -> Prediction:
        """Prediction from what `encode` returned and what `embed_vocabulary` returned."""

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Any:
        """Everything about the words that does not depend on images: unit text embeddings `[C, D]`.

        A system that wants to know more (one row per synonym, which class is the background) overrides this.
        """
        return self.text(vocabulary)

    def losses(self, encoded: Any, text: Any, batch: list[dict[str, Any]], images: ImageList) -> dict[str, Tensor]:
        """Weighted losses of a training batch; systems that are not trained leave this out."""
        raise UserError(f"{type(self).__name__} is training-free; run it with --eval-only")

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training, else one dict per image; see the module's text and `preprocess` for the inputs.

        Batch entries hold `image` `[3, H, W]` RGB 0..255, `height` and `width` (output size; the image's where absent),
        and `vocabulary` (names) or `dataset_name`. All images of a batch share one vocabulary.
        """
        images = self.preprocess(batch)
        text = self.embed_vocabulary(batch_vocabulary(batch))
        if self.training:
            return self.losses(self.encode(images), text, batch, images)
        prediction = self.decode(self.encode(images), text)
        return self.finish(prediction, output_sizes(batch))

    def preprocess(self, batch: list[dict[str, Any]]) -> ImageList:
        """Normalise the images and stack them, zero-padded right and bottom: tensor `[B, 3, H, W]`."""
        images = [(entry["image"].to(self.pixel_mean.device) - self.pixel_mean) / self.pixel_std for entry in batch]
        return ImageList.from_tensors(images, self.size_divisibility)

    def raw_pixels(self, image: Tensor) -> Tensor:
        """A normalised image `[3, H, W]` in the units it came in, 0..255.

        Pixels that came as whole numbers, the rule, come out as these and not a rounding error beside them.
        """
        pixels = image * self.pixel_std + self.pixel_mean
        whole = pixels.round()
        return torch.where((pixels - whole).abs() < _ROUND_TRIP, whole, pixels)

    def finish(self, prediction: Prediction, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """Output dicts at `sizes`, as `self.output` says."""
        if self.output == "scores":
            results: list[dict[str, Any]] = [{"sem_seg": scores} for scores in prediction.scores(sizes)]
        else:
            results = [{"sem_seg_labels": labels} for labels in prediction.label_maps(sizes)]
        if isinstance(prediction, MaskPrediction):
            for key, values in self.segments.of(prediction, sizes).items():
                for result, value in zip(results, values, strict=True):
                    result[key] = value
        return results


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentOutput:
    """What outputs hold besides the semantic map, from systems that predict masks.

    Attributes:
        panoptic: `panoptic_seg` (ids int32 `[height, width]`, segments), see `MaskPrediction.panoptic`.
        instances: `instances`, see `inference.segments.instances`.
        proposals: `proposals`, see `inference.segments.proposals`.
        things: classes (of the vocabulary) that come as countable things; the others are stuff.
        score_threshold, overlap_threshold: of `MaskPrediction.panoptic`.
    """

    panoptic: bool = False
    instances: bool = False
    proposals: bool = False
    things: Sequence[int] = ()
    score_threshold: float = 0.8
    overlap_threshold: float = 0.8

    def of(self, prediction: MaskPrediction, sizes: Sequence[tuple[int, int]]) -> dict[str, list[Any]]:
        """Output key -> one entry per image."""
        found: dict[str, list[Any]] = {}
        if self.panoptic:
            found["panoptic_seg"] = prediction.panoptic(
                sizes,
                self.things,
                score_threshold=self.score_threshold,
                overlap_threshold=self.overlap_threshold,
            )
        if self.instances:
            found["instances"] = list(instances(prediction, sizes, self.things))
        if self.proposals:
            found["proposals"] = list(proposals(prediction, sizes))
        return found


def frames_of(images: ImageList) -> Frames:
    """Where predictions on the padded batch lie."""
    height, width = images.tensor.shape[-2:]
    return Frames(padded=(height, width), images=[(int(h), int(w)) for h, w in images.image_sizes])


def output_sizes(batch: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """(height, width) wanted for each image; its own size where the entry does not say."""
    return [(int(e.get("height", e["image"].shape[-2])), int(e.get("width", e["image"].shape[-1]))) for e in batch]


def batch_vocabulary(batch: list[dict[str, Any]]) -> Vocabulary:
    """The one vocabulary of a batch: `vocabulary` (names, or a `Vocabulary`), else the class list of `dataset_name`.

    Raises:
        UserError: none given, or the images differ in it.
    """
    first = batch[0]
    for key in ("vocabulary", "dataset_name"):
        if key not in first:
            continue
        if any(entry.get(key) != first[key] for entry in batch):
            raise UserError(f"all images of a batch must share one {key}")
        names = first[key]
        if isinstance(names, Vocabulary):
            return names
        return Vocabulary.from_words(names) if key == "vocabulary" else Vocabulary.from_dataset(names)
    raise UserError("no vocabulary: give batch entries a 'vocabulary' (list of names) or a 'dataset_name'")


def text_embedder_from_config(
    cfg: CfgNode, clip: ClipModel, tokenizer: Tokenizer, *, per_template: bool = False
) -> TextEmbedder:
    """A `TextEmbedder` with the keys of `MODEL.CLIP`; `per_template` gives `[C, P, D]` instead of the mean `[C, D]`."""
    return TextEmbedder(
        clip=clip,
        tokenizer=tokenizer,
        templates=TEMPLATES[cfg.MODEL.CLIP.TEMPLATES],
        unit_prompts=cfg.MODEL.CLIP.UNIT_PROMPTS,
        split_synonyms=cfg.MODEL.CLIP.SPLIT_SYNONYMS,
        first_synonym=cfg.MODEL.CLIP.FIRST_SYNONYM,
        per_template=per_template,
        batch_size=cfg.MODEL.CLIP.TEXT_BATCH_SIZE,
        cache_folder=cfg.MODEL.CLIP.TEXT_CACHE,
    )


def shared_arguments(
    cfg: CfgNode,
    clip: ClipModel | None,
    tokenizer: Tokenizer | None,
    *,
    size_divisibility: int = 0,
    per_template: bool = False,
) -> dict[str, Any]:
    """Constructor arguments of `OpenVocabularySegmenter` that every system's `from_config` passes on.

    Args:
        clip, tokenizer: None for a system whose classes are not words.
        size_divisibility: see `OpenVocabularySegmenter`.
        per_template: see `text_embedder_from_config`.
    """
    text = None
    if clip is not None and tokenizer is not None:
        text = text_embedder_from_config(cfg, clip, tokenizer, per_template=per_template)
    return {
        "clip": clip,
        "text": text,
        "size_divisibility": size_divisibility,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }

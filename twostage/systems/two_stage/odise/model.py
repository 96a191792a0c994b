"""ODISE: Open-Vocabulary Panoptic Segmentation with Text-to-Image Diffusion Models (Xu et al., CVPR 2023)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.profiler import record_function

from twostage.checkpoint.renaming import CheckpointTable, Supply
from twostage.clip.regions.shadow_tokens import read_masks
from twostage.clip.text import TextEmbedder
from twostage.clip.towers.vit import embed_image
from twostage.errors import UserError
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.proposals.losses import MaskLosses, mask_targets
from twostage.proposals.masked_decoder import MaskedDecoder
from twostage.proposals.pixel_decoder import PixelDecoder
from twostage.proposals.queries import MaskedQueries
from twostage.segmenter import OpenVocabularySegmenter
from twostage.systems.two_stage.ensemble import GeometricEnsemble
from twostage.systems.two_stage.heads import synonym_logits
from twostage.systems.two_stage.odise.building import arguments_from_config
from twostage.systems.two_stage.odise.captioner import clip_pixels
from twostage.systems.two_stage.odise.features import DiffusionFeatures
from twostage.systems.two_stage.odise.grounding import grounding_loss
from twostage.systems.two_stage.odise.heads import MaskEmbedding, TextHead
from twostage.systems.two_stage.odise.weights import checkpoint_table
from twostage.vocabulary import Vocabulary

_LARGEST_SCALE = 100.0


class Words(NamedTuple):
    """Single names, synonyms apart: CLIP's text embeddings `[N, E]` for the head (not of unit length) and for CLIP (unit
    length; None in training), the class of each name `[N]`, and which classes were trained `[C]`."""

    head: Tensor
    clip: Tensor | None
    classes: Tensor
    seen: Tensor


class Encoded(NamedTuple):
    """What ODISE knows about images without the vocabulary.

    `outputs` holds (prediction, mask embeddings `[B, Q, W]`), the final one first; `regions` are CLIP's embeddings of the
    final masks `[B, Q, E]`, not of unit length, None in training.
    """

    outputs: list[tuple[MaskedQueries, Tensor]]
    regions: Tensor | None
    geometry: Geometry


@META_ARCH_REGISTRY.register()
class ODISE(OpenVocabularySegmenter[Encoded, Words]):
    """A frozen text-to-image diffusion model as backbone of a Mask2Former decoder; masks are named by text and by CLIP.

    Trainable: the implicit captioner, the projections of the diffusion model's maps, the decoders and the heads.
    """

    @configurable
    def __init__(
        self,
        *,
        supervision: Literal["label", "caption"],
        head_text: TextEmbedder,
        features: DiffusionFeatures,
        pixel_decoder: PixelDecoder,
        decoder: MaskedDecoder,
        null: Tensor | None,
        criterion: MaskLosses,
        grounding_weight: float,
        ensemble: GeometricEnsemble,
        train_names: frozenset[str],
        resize_scores: bool,
        read_frozen: Supply,
        **shared: Any,
    ) -> None:
        """
        Args:
            supervision: see `MODEL.ODISE.SUPERVISION`.
            head_text: embeds names for the head as CLIP's text tower gives them, not of unit length.
            null: where the null embedding starts (label).
            train_names: a class with one of these names counts as trained.
            resize_scores: see `MaskPrediction`.
            read_frozen: CLIP and the diffusion model from their own files, for an official checkpoint, which lacks them.
            shared: see `OpenVocabularySegmenter`.
        """
        super().__init__(**shared)
        self.clip.requires_grad_(False)
        self.supervision = supervision
        self.head_text = head_text
        self.features = features
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.criterion = criterion
        self.grounding_weight = grounding_weight
        self.ensemble = ensemble
        self.train_names = train_names
        self.resize_scores = resize_scores
        self.read_frozen = read_frozen
        width = decoder.norm.normalized_shape[0]
        self.mask_embedding = MaskEmbedding(width=width, mask_width=pixel_decoder.mask_features.out_channels)
        self.text_head = TextHead(embedding=self.clip.text_projection.shape[1], width=width, null=null)
        self.objectness = nn.Linear(width, 2) if supervision == "caption" else None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.ODISE`, `MODEL.MASK2FORMER`, `MODEL.CLIP` and `MODEL.MASK_LOSS`."""
        return arguments_from_config(cfg)

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table(self.supervision, read_frozen=self.read_frozen)

    def train(self, mode: bool = True) -> ODISE:
        """CLIP and the diffusion model stay in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        self.features.diffusion.eval()
        return self

    @staticmethod
    def is_bias(name: str) -> bool:
        """As published, the biases of attention's input projections decay like weights."""
        return name.rpartition(".")[2] == "bias"

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Words:
        """One row per synonym."""
        groups = vocabulary.synonyms(split=True)
        names = [name for group in groups for name in group]
        rows = self.head_text.embed_names(names)
        return Words(
            head=rows,
            clip=None if self.training else self.text.embed_names(names),
            classes=torch.tensor([i for i, group in enumerate(groups) for _ in group], device=rows.device),
            seen=torch.tensor([not self.train_names.isdisjoint(group) for group in groups], device=rows.device),
        )

    def encode(self, images: ImageList) -> Encoded:
        pyramid = self.features(images.tensor, self.clip.visual)
        with record_function("pixel decoder"):
            pixels = self.pixel_decoder(pyramid)
        with record_function("masked decoder"):
            queries = self.decoder(pixels)
        with record_function("embeddings"):
            outputs = [(o, self.mask_embedding(o, pixels.mask_features)) for o in queries]
        with record_function("masked clip"):
            regions = None if self.training else self.regions(images, outputs[0][0].mask_logits)
        return Encoded(outputs, regions, Geometry.of(images))

    def regions(self, images: ImageList, mask_logits: Tensor) -> Tensor:
        """What CLIP sees in masks `[B, Q, h, w]`: `[B, Q, E]`.

        As published, pictures come without the padding to multiples of 64 and masks with it, so that they are up to 63
        pixels apart.
        """
        visual = self.clip.visual
        height, width = (max(size[axis] for size in images.image_sizes) for axis in (0, 1))
        pixels = clip_pixels(visual, images.tensor[..., :height, :width], "bilinear")
        tokens = embed_image(visual, pixels)
        return read_masks(visual, list(visual.transformer.resblocks), tokens, patches_inside(visual, mask_logits))

    def head_logits(self, embeddings: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
        """Logits `[B, Q, C (+ 1)]` of mask embeddings, null last where there is one.

        Args:
            rows: what `text_head` makes of the names.
            classes: class of each name.
        """
        if len(rows) > len(classes):
            classes = torch.cat([classes, classes.max()[None] + 1])
        return synonym_logits(embeddings, rows, classes, self.mask_embedding.logit_scale, int(classes.max()) + 1)

    def decode(self, encoded: Encoded, text: Words) -> MaskPrediction:
        assert encoded.regions is not None and text.clip is not None, "encoded in training mode"
        output, embeddings = encoded.outputs[0]
        head = self.head_logits(embeddings, self.text_head(text.head), text.classes)
        clip = synonym_logits(encoded.regions, text.clip, text.classes, self.clip.logit_scale, len(text.seen))
        if self.objectness is None:
            head, void = head[..., :-1], head.softmax(dim=-1)[..., -1:]
        else:
            void = self.objectness(output.queries).softmax(dim=-1)[..., 1:]
        return MaskPrediction(
            mask_logits=output.mask_logits,
            class_logits=self.ensemble.against_void(self.ensemble.join(head, clip, text.seen), void),
            geometry=encoded.geometry,
            resize_scores=self.resize_scores,
        )

    def losses(
        self, encoded: Encoded, text: Words, batch: list[dict[str, Any]], images: ImageList
    ) -> dict[str, Tensor]:
        targets = mask_targets(batch, encoded.geometry.padded, images.tensor.device)
        if self.objectness is None:
            rows = self.text_head(text.head)
            logits = [self.head_logits(e, rows, text.classes) for _, e in encoded.outputs]
            return self.criterion(
                [(c, o.mask_logits) for c, (o, _) in zip(logits, encoded.outputs, strict=True)], targets
            )
        targets = [dataclasses.replace(t, classes=torch.zeros_like(t.classes)) for t in targets]
        outputs = [(self.objectness(o.queries), o.mask_logits) for o, _ in encoded.outputs]
        return {**self.criterion(outputs, targets), **self._grounding_losses(encoded, batch)}

    def _grounding_losses(self, encoded: Encoded, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        words = [entry["words"] for entry in batch if "words" in entry]
        if len(words) < len(batch):
            raise UserError(
                "MODEL.ODISE.SUPERVISION 'caption' learns from the words of captions, but the training pictures have none; "
                "name their captions by DATASETS.CAPTIONS, or use 'label'"
            )
        rows = self.head_text.embed_names([word for some in words for word in some])
        embedded = self.text_head(rows).unflatten(0, (len(batch), -1))
        valid = torch.tensor([any(some) for some in words], device=rows.device)
        scale = self.mask_embedding.logit_scale.exp().clamp(max=_LARGEST_SCALE)
        return {
            "loss_mask_word" + ("" if index == 0 else f"_{index - 1}"): self.grounding_weight
            * grounding_loss(embeddings, embedded, valid, scale)
            for index, (_, embeddings) in enumerate(encoded.outputs)
        }


def patches_inside(visual: Any, mask_logits: Tensor) -> Tensor:
    """Patches of CLIP's own picture that a mask `[B, Q, h, w]` reaches, its probability 0.5 or more: bool `[B, Q, N]`."""
    side = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
    masks = F.interpolate(mask_logits, size=(side, side), mode="bilinear", align_corners=False)
    return F.max_pool2d(masks, visual.conv1.kernel_size).sigmoid().flatten(2) >= 0.5

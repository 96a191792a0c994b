"""FC-CLIP: Convolutions Die Hard, open-vocabulary segmentation with a single frozen convolutional CLIP (Yu et al., NeurIPS
2023)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.profiler import record_function

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.loading import load_clip_from_config
from twostage.clip.regions.contract import Regions
from twostage.clip.regions.mask_pooling import embed_masks, masks_on_grid, pool_masks
from twostage.clip.text import TextEmbedder
from twostage.clip.towers.pyramid import feature_pyramid, pyramid_channels, require_convolutional
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.proposals.generator import build_decoders
from twostage.proposals.losses import MaskLosses
from twostage.proposals.masked_decoder import MaskedDecoder
from twostage.proposals.mlp import MLP
from twostage.proposals.pixel_decoder import PixelDecoder
from twostage.proposals.queries import MaskedQueries
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.two_stage.ensemble import GeometricEnsemble
from twostage.systems.two_stage.fcclip.weights import checkpoint_table
from twostage.systems.two_stage.heads import EncodedMasks, mask_losses, synonym_logits
from twostage.systems.two_stage.trained_names import trained_names
from twostage.vocabulary import Vocabulary


class SynonymText(NamedTuple):
    """Unit text embeddings of single names `[N, D]`, the class of each name `[N]`, and which classes were trained `[C]`."""

    names: Tensor
    classes: Tensor
    seen: Tensor


def embed_synonyms(text: TextEmbedder, vocabulary: Vocabulary, train_names: frozenset[str]) -> SynonymText:
    """One row per synonym; a class one of whose synonyms is among `train_names` counts as trained."""
    groups = vocabulary.synonyms(split=True)
    rows = text.embed_names([name for group in groups for name in group])
    classes = torch.tensor([index for index, group in enumerate(groups) for _ in group], device=rows.device)
    seen = torch.tensor([not train_names.isdisjoint(group) for group in groups], device=rows.device)
    return SynonymText(rows, classes, seen)


def with_void(words: SynonymText, void: nn.Embedding) -> tuple[Tensor, Tensor]:
    """Rows of the names and, last, of void `[N + 1, D]`, all of unit length, and the class of each `[N + 1]`."""
    names = torch.cat([words.names, F.normalize(void.weight, dim=-1)])
    return names, torch.cat([words.classes, torch.full_like(words.classes[:1], words.seen.shape[0])])


@META_ARCH_REGISTRY.register()
class FCCLIP(OpenVocabularySegmenter[EncodedMasks, SynonymText]):
    """One frozen CLIP as backbone of a Mask2Former decoder and as classifier of what the masks hold.

    Trainable: the decoders, the head from queries to embeddings, its logit scale and the void embedding.
    """

    @configurable
    def __init__(
        self,
        *,
        pixel_decoder: PixelDecoder,
        decoder: MaskedDecoder,
        criterion: MaskLosses,
        ensemble: GeometricEnsemble,
        train_names: frozenset[str],
        resize_scores: bool,
        **shared: Any,
    ) -> None:
        """
        Args:
            train_names: a class with one of these names counts as trained.
            resize_scores: see `MaskPrediction`.
            shared: see `OpenVocabularySegmenter`.
        """
        super().__init__(**shared)
        self.clip.requires_grad_(False)
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.criterion = criterion
        self.ensemble = ensemble
        self.train_names = train_names
        self.resize_scores = resize_scores
        width = decoder.norm.normalized_shape[0]
        embedding = self.clip.text_projection.shape[1]
        self.pooled_proj = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(pixel_decoder.mask_features.out_channels, width)
        )
        self.class_embed = MLP([width, width, width, embedding])
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.void_embedding = nn.Embedding(1, embedding)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.FCCLIP`, `MODEL.MASK2FORMER`, `MODEL.CLIP` and `MODEL.MASK_LOSS`."""
        clip, tokenizer = load_clip_from_config(cfg)
        require_convolutional(clip.visual, "FC-CLIP")
        pixel_decoder, decoder = build_decoders(cfg, pyramid_channels(clip.visual))
        keys = cfg.MODEL.FCCLIP
        return {
            **shared_arguments(cfg, clip, tokenizer, size_divisibility=cfg.MODEL.MASK2FORMER.SIZE_DIVISIBILITY),
            "pixel_decoder": pixel_decoder,
            "decoder": decoder,
            "criterion": MaskLosses.from_config(cfg),
            "ensemble": GeometricEnsemble(
                seen_weight=keys.SEEN_WEIGHT,
                unseen_weight=keys.UNSEEN_WEIGHT,
                valid_only=keys.ENSEMBLE_ON_VALID_MASK,
            ),
            "train_names": trained_names(cfg, keys.TRAIN_VOCABULARY, "MODEL.FCCLIP.TRAIN_VOCABULARY"),
            "resize_scores": cfg.MODEL.MASK2FORMER.RESIZE_SCORES,
        }

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table()

    def train(self, mode: bool = True) -> FCCLIP:
        """CLIP stays in evaluation mode: its batch norms and its dropout are as they were trained."""
        super().train(mode)
        self.clip.eval()
        return self

    def embed_vocabulary(self, vocabulary: Vocabulary) -> SynonymText:
        """One row per synonym."""
        return embed_synonyms(self.text, vocabulary, self.train_names)

    def encode(self, images: ImageList) -> EncodedMasks:
        with record_function("trunk"), torch.no_grad():
            pyramid = feature_pyramid(self.clip.visual, images.tensor)
        outputs = self.mask_outputs(pyramid)
        with record_function("mask pooling"):
            regions = None if self.training else self._regions(outputs[0][0], pyramid["res5"].float())
        return EncodedMasks(outputs, Geometry.of(images), regions)

    def mask_outputs(self, pyramid: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """`EncodedMasks.outputs` of CLIP's stages."""
        with record_function("pixel decoder"):
            pixels = self.pixel_decoder(pyramid)
        with record_function("masked decoder"):
            queries = self.decoder(pixels)
        with record_function("embeddings"):
            return [(o.mask_logits, self._embed(o, pixels.mask_features)) for o in queries]

    def _embed(self, output: MaskedQueries, mask_features: Tensor) -> Tensor:
        """Embeddings `[B, Q, D]` of queries and of the mask features inside their masks."""
        masks = masks_on_grid(output.mask_logits, (mask_features.shape[2], mask_features.shape[3]))
        return self.class_embed(self.pooled_proj(pool_masks(mask_features, masks)) + output.queries)

    def _regions(self, mask_logits: Tensor, res5: Tensor) -> Regions:
        """What frozen CLIP sees inside the masks; valid where a mask has a cell on CLIP's grid."""
        masks = masks_on_grid(mask_logits, (res5.shape[2], res5.shape[3]))
        return Regions(embed_masks(self.clip.visual, res5, masks), masks.flatten(2).any(dim=2))

    def class_logits(self, embeddings: Tensor, words: SynonymText, logit_scale: Tensor) -> Tensor:
        """Logits `[B, Q, C + 1]` of embeddings `[B, Q, D]`, void last."""
        names, classes = with_void(words, self.void_embedding)
        return synonym_logits(embeddings, names, classes, logit_scale, words.seen.shape[0] + 1)

    def region_logits(self, encoded: EncodedMasks, text: SynonymText) -> Tensor:
        """Logits `[B, Q, C + 1]` of what CLIP sees in the masks, void last."""
        assert encoded.regions is not None, "encoded in training mode"
        return self.class_logits(encoded.regions.embeddings, text, self.clip.logit_scale)

    def decode(self, encoded: EncodedMasks, text: SynonymText) -> MaskPrediction:
        mask_logits, embeddings = encoded.outputs[0]
        assert encoded.regions is not None, "encoded in training mode"
        decoder = self.class_logits(embeddings, text, self.logit_scale)
        clip = self.region_logits(encoded, text)
        return MaskPrediction(
            mask_logits=mask_logits,
            class_logits=self.ensemble(decoder, clip, text.seen, encoded.regions.valid),
            geometry=encoded.geometry,
            resize_scores=self.resize_scores,
        )

    def losses(
        self, encoded: EncodedMasks, text: SynonymText, batch: list[dict[str, Any]], images: ImageList
    ) -> dict[str, Tensor]:
        return mask_losses(
            self.criterion, encoded, lambda embeddings: self.class_logits(embeddings, text, self.logit_scale), batch
        )

"""OVSeg (Liang et al., CVPR 2023) and its ancestor zsseg (Xu et al., ECCV 2022): MaskFormer proposals, classified by CLIP."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from torch import Tensor, nn
from torch.profiler import record_function

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.loading import load_clip_from_config
from twostage.clip.regions.classifiers import BiasedRegions, PooledRegions
from twostage.clip.regions.contract import RegionClassifier, Regions
from twostage.clip.regions.crops import Cropper, crop_side
from twostage.clip.regions.encoder import RegionEncoder
from twostage.clip.regions.mask_prompt import has_mask_prompts
from twostage.clip.statistics import CLIP_STATISTICS, Pictures, PixelUnits
from twostage.clip.towers.convnext import require_convnext
from twostage.clip.towers.pyramid import require_convolutional
from twostage.clip.towers.vit import Tower, require_vit
from twostage.data.views import dataset_view
from twostage.errors import UserError
from twostage.predictions.contrasted import ContrastedPrediction
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.prediction import Prediction
from twostage.proposals.backbones import build_backbone
from twostage.proposals.losses import MaskLosses
from twostage.proposals.maskformer import MaskFormer
from twostage.proposals.mlp import MLP
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.mask_sources.building import mask_source_from_config
from twostage.systems.mask_sources.contract import MaskSource, PicturesWithMasks, stacked_masks
from twostage.systems.two_stage.ensemble import ensemble_weights
from twostage.systems.two_stage.heads import EncodedMasks, TextClassifier, mask_losses
from twostage.systems.two_stage.mask_adapter.regions import AdaptedRegions, adapted_regions_from_config
from twostage.systems.two_stage.ovseg.free_vocabulary import OTHERS, best_proposals
from twostage.systems.two_stage.ovseg.weights import checkpoint_table
from twostage.vocabulary import Vocabulary

# Logit of a pixel that is in a mask.
_CERTAIN = 20.0


class AskedText(NamedTuple):
    """Unit text embeddings `text` `[C, D]`, of which the first `asked` are what the user asked for; then their rival.

    `seen` bool `[C]` says which of them the generator was trained on, None where all count as unseen.
    """

    text: Tensor
    asked: int
    seen: Tensor | None = None


@META_ARCH_REGISTRY.register()
class OVSeg(OpenVocabularySegmenter[EncodedMasks, AskedText]):
    """MaskFormer proposals with embeddings in CLIP's text space, and CLIP's own view of the masked crops.

    Trainable: the generator, the head from queries to embeddings and the void embedding. CLIP is adapted on its own
    (`tools/train_mask_prompt.py`).
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        generator: MaskFormer,
        class_embed: MLP,
        criterion: MaskLosses,
        regions: RegionClassifier | None,
        logit_scale: float,
        ensemble_weight: float,
        best_proposals_only: bool,
        mask_threshold: float,
        seen_names: Collection[str] = (),
        masks: MaskSource | None = None,
        **shared: Any,
    ) -> None:
        """
        Args:
            class_embed: from queries to CLIP's embedding space.
            regions: how CLIP classifies proposals; None leaves it to the generator.
            logit_scale: factor of cosine similarities.
            ensemble_weight, best_proposals_only, mask_threshold: see `twostage.systems.two_stage.ovseg.keys`.
            seen_names: classes that the generator was trained on, where the ensemble treats them differently.
            masks: where masks come from instead of the generator, which is not run then; None for the generator's.
            shared: see `OpenVocabularySegmenter`.
        """
        super().__init__(**shared)
        self.clip.requires_grad_(False)
        self.backbone = backbone
        self.generator = generator
        self.class_embed = class_embed
        self.criterion = criterion
        self.regions = regions
        # Held by name as well, so that it moves and is saved with the model.
        self.adapter = regions.adapter.requires_grad_(False) if isinstance(regions, AdaptedRegions) else None
        self.logit_scale = logit_scale
        self.ensemble_weight = ensemble_weight
        self.best_proposals_only = best_proposals_only
        self.mask_threshold = mask_threshold
        self.seen_names = frozenset(seen_names)
        self.masks = masks
        width = self.clip.text_projection.shape[1]
        self.void_embedding = nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.clip_units = PixelUnits(CLIP_STATISTICS.rounded())

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.OVSEG`, `MODEL.MASKFORMER`, the backbone's keys and `MODEL.CLIP`."""
        clip, tokenizer = load_clip_from_config(cfg)
        keys = cfg.MODEL.OVSEG
        _check_tower(clip.visual, keys.REGIONS)
        backbone = build_backbone(cfg)
        shapes = sorted(backbone.output_shape().items(), key=lambda item: item[1].stride or 0)
        return {
            **shared_arguments(cfg, clip, tokenizer, size_divisibility=keys.SIZE_DIVISIBILITY),
            "backbone": backbone,
            "generator": MaskFormer.from_config(cfg, {name: int(shape.channels or 0) for name, shape in shapes}),
            "class_embed": MLP([cfg.MODEL.MASKFORMER.WIDTH, keys.EMBED_HIDDEN, clip.text_projection.shape[1]]),
            "criterion": MaskLosses.from_config(cfg),
            "regions": _region_classifier(cfg, clip) if keys.ENSEMBLE else None,
            "logit_scale": keys.LOGIT_SCALE,
            "ensemble_weight": keys.ENSEMBLE_WEIGHT,
            "best_proposals_only": keys.BEST_PROPOSALS_ONLY,
            "mask_threshold": keys.MASK_THRESHOLD,
            "seen_names": _seen_names(cfg),
            "masks": None if cfg.MODEL.MASKS.SOURCE == "own" else mask_source_from_config(cfg),
        }

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table(has_prompts=has_mask_prompts(self.clip.visual))

    def parameter_group(self, name: str) -> str | None:
        """Whose learning-rate multiplier a parameter takes; nothing of CLIP trains here."""
        return "backbone" if name.startswith("backbone.") else None

    def embed_vocabulary(self, vocabulary: Vocabulary) -> AskedText:
        """Text embeddings; in the demo a single word gets a rival, or every pixel of its proposals would be it."""
        names = vocabulary.names
        if self.best_proposals_only and len(names) == 1:
            return AskedText(self.text(Vocabulary((*names, OTHERS))), 1)
        asked = 1 if self.best_proposals_only and len(names) == 2 and names[1] == OTHERS else len(names)
        text = self.text(vocabulary)
        seen = (
            torch.tensor([name in self.seen_names for name in names], device=text.device) if self.seen_names else None
        )
        return AskedText(text, asked, seen)

    def preprocess(self, batch: list[dict[str, Any]]) -> Pictures:
        """As every system's, with the masks of each picture where they come from elsewhere."""
        if self.masks is None:
            return super().preprocess(batch)
        return PicturesWithMasks.of(batch, self.units, self.masks, self.size_divisibility)

    def encode(self, images: Pictures) -> EncodedMasks:
        if isinstance(images, PicturesWithMasks):
            return self._encode_given(images)
        with record_function("generator"):
            proposals = self.generator(self.backbone(images.tensor))
            outputs = [(p.mask_logits, F.normalize(self.class_embed(p.queries), dim=-1)) for p in proposals]
        geometry = Geometry.of(images)
        regions = None if self.training else self._recognise(images, outputs[0][0], geometry)
        return EncodedMasks(outputs, geometry, regions)

    def _recognise(self, images: Pictures, mask_logits: Tensor, geometry: Geometry) -> Regions | None:
        """CLIP's view of every proposal, on the images as they were before padding."""
        if self.regions is None:
            return None
        found = []
        for index in range(len(geometry.images)):
            with record_function("masks"):
                probabilities = geometry.at_image_size(index, mask_logits[index]).sigmoid()
            found.append(self.regions(self.clip.visual, self.clip_units(images.pixels[index]), probabilities))
        return Regions.stack(found)

    def _encode_given(self, images: PicturesWithMasks) -> EncodedMasks:
        """Masks from elsewhere; each is as sure as can be, and only CLIP says what it is."""
        if self.regions is None or self.training:
            raise UserError("masks from elsewhere (MODEL.MASKS.SOURCE) are named by CLIP alone and train nothing")
        geometry = Geometry.of(images)
        masks = stacked_masks(images.masks, geometry.images, geometry.padded)
        found = []
        for index, (height, width) in enumerate(geometry.images):
            inside = masks[index, :, :height, :width].to(images.tensor.dtype)
            found.append(self.regions(self.clip.visual, self.clip_units(images.pixels[index]), inside))
        regions = Regions.stack(found)
        logits = torch.where(masks, _CERTAIN, -_CERTAIN)
        return EncodedMasks([(logits, regions.embeddings)], geometry, regions)

    def classifier(self, text: Tensor) -> TextClassifier:
        """Of unit embeddings of queries and of regions; `text` is normalised once more, as published."""
        return TextClassifier.scaled(F.normalize(text, dim=-1), self.void_embedding, self.logit_scale)

    def decode(self, encoded: EncodedMasks, text: AskedText) -> MaskPrediction:
        mask_logits, embeddings = encoded.outputs[0]
        classifier = self.classifier(text.text)
        class_logits = classifier(embeddings)
        weights = None
        if encoded.regions is not None:
            # CLIP chooses among the classes; void is dropped before its softmax, and after the generator's.
            clip = classifier.classes(encoded.regions.embeddings).softmax(dim=-1)
            generator = class_logits.softmax(dim=-1)[..., :-1]
            share = self.ensemble_weight if self.masks is None else 0.0
            weights = ensemble_weights(generator, clip, encoded.regions.valid, share, text.seen)
            if self.best_proposals_only:
                weights = best_proposals(weights, encoded.regions.valid, text.asked)
        return MaskPrediction(
            mask_logits=mask_logits,
            class_logits=class_logits,
            class_weights=weights,
            geometry=encoded.geometry,
            resize_scores=True,
            mask_threshold=self.mask_threshold if self.best_proposals_only else None,
            num_named=text.asked if self.best_proposals_only else None,
        )

    def answer(self, encoded: EncodedMasks, vocabulary: Vocabulary, others: Sequence[str] = ()) -> Prediction:
        """As every system's; pixels in no mask from elsewhere are none of the words."""
        answer = super().answer(encoded, vocabulary, others)
        if self.masks is None:
            return answer
        if isinstance(answer, ContrastedPrediction):
            return dataclasses.replace(answer, asked=_only_covered(answer.asked))
        return _only_covered(answer)

    def losses(
        self, encoded: EncodedMasks, text: AskedText, batch: list[dict[str, Any]], images: Pictures
    ) -> dict[str, Tensor]:
        return mask_losses(self.criterion, encoded, self.classifier(text.text), batch)


def _only_covered(prediction: Prediction) -> MaskPrediction:
    assert isinstance(prediction, MaskPrediction), "what `decode` makes"
    return dataclasses.replace(prediction, only_covered=True)


def _check_tower(visual: Tower, regions: str) -> None:
    """UserError unless the classifier of `MODEL.OVSEG.REGIONS` knows such a tower."""
    if regions == "mask_adapter":
        require_convnext(visual, "MODEL.OVSEG.REGIONS 'mask_adapter'")
    elif regions == "mask_pool" and not hasattr(visual, "class_embedding"):
        require_convolutional(visual, "MODEL.OVSEG.REGIONS 'mask_pool'")
    else:
        require_vit(visual, "OVSeg")


def _region_classifier(cfg: CfgNode, clip: Any) -> RegionClassifier:
    """How CLIP classifies proposals, from `MODEL.OVSEG`."""
    keys = cfg.MODEL.OVSEG
    if keys.REGIONS == "mask_pool":
        return PooledRegions(threshold=keys.MASK_THRESHOLD)
    if keys.REGIONS == "attention_bias":
        return BiasedRegions(threshold=keys.MASK_THRESHOLD, blocks=keys.BIASED_BLOCKS)
    if keys.REGIONS == "mask_adapter":
        # A checkpoint of ours holds the adapter.
        weights = "" if cfg.MODEL.WEIGHTS else keys.ADAPTER_WEIGHTS
        return adapted_regions_from_config(
            cfg, embedding=clip.text_projection.shape[1], threshold=keys.MASK_THRESHOLD, weights=weights
        )
    colour = CLIP_STATISTICS.mean if keys.BACKGROUND == "mean" else (0.0, 0.0, 0.0)
    size = crop_side(clip.visual, keys.CROP_SIZE, "MODEL.OVSEG.CROP_SIZE")
    return RegionEncoder(
        cropper=Cropper(size=size, expand_ratio=keys.EXPAND_RATIO, background=CLIP_STATISTICS.rounded().colour(colour)),
        threshold=keys.MASK_THRESHOLD,
        soft_background=keys.MATTING,
        use_prompts=keys.MASK_PROMPTS,
        batch_size=keys.CROP_BATCH,
    )


def _seen_names(cfg: CfgNode) -> Collection[str]:
    """The classes of `MODEL.OVSEG.SEEN_CLASSES_OF`, none for ""."""
    name = cfg.MODEL.OVSEG.SEEN_CLASSES_OF
    if not name:
        return ()
    try:
        return dataset_view(cfg, name).class_names
    except UserError as error:
        raise UserError(f"MODEL.OVSEG.SEEN_CLASSES_OF: {error}") from error

"""SCAN: Open-Vocabulary Segmentation with Semantic-Assisted Calibration (Liu et al., CVPR 2024)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.profiler import record_function

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.loading import load_clip_from_config
from twostage.clip.regions.contract import Regions
from twostage.clip.regions.crops import Cropper, crop_side
from twostage.clip.statistics import CLIP_STATISTICS, Pictures, PixelUnits
from twostage.clip.towers.vit import embed_image, image_side, project_tokens, require_vit, run_blocks
from twostage.errors import UserError
from twostage.inference.precision import in_float32
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.proposals.generator import MaskGenerator, build_mask_generator
from twostage.proposals.losses import MaskLosses
from twostage.proposals.mlp import MLP
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.two_stage.ensemble import ensemble_weights, weigh_against_void
from twostage.systems.two_stage.heads import EncodedMasks, TextClassifier, mask_losses
from twostage.systems.two_stage.scan.calibration import Calibration, Context
from twostage.systems.two_stage.scan.contextual_shift import ShiftedRegions
from twostage.systems.two_stage.scan.weights import checkpoint_table

# Cosine similarities are multiplied by this; CLIP's own scale is not used.
_LOGIT_SCALE = 100.0


@META_ARCH_REGISTRY.register()
class SCAN(OpenVocabularySegmenter[EncodedMasks, Tensor]):
    """Mask2Former whose queries are calibrated with CLIP's view of the whole picture, and CLIP's view of masked crops.

    Trainable: the generator, the head to CLIP's space, the calibration and the void embedding. `clip` is the tower for
    regions (adapted to shifted crops at release) and for text, `context_clip` an untouched image tower.
    """

    @configurable
    def __init__(
        self,
        *,
        generator: MaskGenerator,
        class_embed: MLP,
        calibration: Calibration,
        criterion: MaskLosses,
        regions: ShiftedRegions,
        context_blocks: list[int],
        shift_blocks: list[int],
        ensemble_weight: float,
        weigh_void: bool,
        **shared: Any,
    ) -> None:
        """
        Args:
            class_embed: from queries to CLIP's embedding space.
            regions: how masks become CLIP embeddings.
            context_blocks: blocks of CLIP (from 1) whose patches are the calibration's context.
            shift_blocks, ensemble_weight, weigh_void: see `twostage.systems.two_stage.scan.keys`.
            shared: see `OpenVocabularySegmenter`.
        """
        super().__init__(**shared)
        self.clip.requires_grad_(False)
        self.context_clip = copy.deepcopy(self.clip.visual)
        self.generator = generator
        self.class_embed = class_embed
        self.calibration = calibration
        self.criterion = criterion
        self.regions = regions
        self.context_blocks = tuple(context_blocks)
        self.shift_blocks = tuple(shift_blocks)
        self.ensemble_weight = ensemble_weight
        self.weigh_void = weigh_void
        width = self.clip.visual.proj.shape[1]
        self.void_embedding = nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.clip_units = PixelUnits(CLIP_STATISTICS.rounded())

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.SCAN`, `MODEL.MASK2FORMER`, the backbone's keys and `MODEL.CLIP`."""
        clip, tokenizer = load_clip_from_config(cfg)
        require_vit(clip.visual, "SCAN")
        keys = cfg.MODEL.SCAN
        blocks = len(clip.visual.transformer.resblocks)
        for block in (*keys.CONTEXT_BLOCKS, *keys.SHIFT_BLOCKS):
            if block > blocks:
                raise UserError(
                    f"MODEL.SCAN.CONTEXT_BLOCKS or SHIFT_BLOCKS has {block}; {cfg.MODEL.CLIP.NAME!r} has {blocks} blocks"
                )
        width, embedding = clip.visual.proj.shape
        calibration = Calibration(
            clip_width=width,
            width=embedding,
            heads=keys.HEADS,
            sigmas=keys.FREQUENCY_SIGMA,
            fusion_layers=keys.FUSION_LAYERS,
            refine_layers=keys.REFINE_LAYERS,
            refine_hidden=keys.REFINE_HIDDEN,
            dropout=keys.REFINE_DROPOUT,
        )
        return {
            **shared_arguments(cfg, clip, tokenizer, size_divisibility=cfg.MODEL.MASK2FORMER.SIZE_DIVISIBILITY),
            "generator": build_mask_generator(cfg),
            "class_embed": MLP([cfg.MODEL.MASK2FORMER.WIDTH, keys.EMBED_HIDDEN, embedding]),
            "calibration": calibration,
            "criterion": MaskLosses.from_config(cfg),
            "regions": ShiftedRegions(
                cropper=Cropper(
                    size=crop_side(clip.visual, keys.CROP_SIZE, "MODEL.SCAN.CROP_SIZE"),
                    background=CLIP_STATISTICS.rounded().colour(CLIP_STATISTICS.mean),
                ),
                threshold=keys.MASK_THRESHOLD,
                ratio=keys.SHIFT_RATIO,
                batch_size=keys.CROP_BATCH,
            ),
            "context_blocks": keys.CONTEXT_BLOCKS,
            "shift_blocks": keys.SHIFT_BLOCKS,
            "ensemble_weight": keys.ENSEMBLE_WEIGHT,
            "weigh_void": keys.WEIGH_VOID,
        }

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table()

    def encode(self, images: Pictures) -> EncodedMasks:
        # One pixel of a mask moves the draw of all replaced tokens, so that masks are never made in reduced precision.
        with nullcontext() if self.training else in_float32(images.tensor.device):
            masked = self.generator(images.tensor)
        # Behind the last layer but one a mask is predicted and not trained, as published.
        masked = masked[:1] + masked[1:-1]
        clip_images = images.in_units(self.clip_units)
        with record_function("context"):
            context, class_tokens = self._context(clip_images)
        # Queries don't meet in the calibration, so those of all layers go through it together.
        with record_function("calibration"):
            queries = self.class_embed(torch.cat([m.queries for m in masked], dim=1))
            embeddings = F.normalize(self.calibration(queries, context), dim=-1).chunk(len(masked), dim=1)
        outputs = [(m.mask_logits, e) for m, e in zip(masked, embeddings, strict=True)]
        geometry = Geometry.of(images)
        if self.training:
            return EncodedMasks(outputs, geometry)
        return EncodedMasks(outputs, geometry, self._regions(clip_images, outputs[0][0], geometry, class_tokens))

    def _context(self, clip_images: Pictures) -> tuple[Context, dict[int, Tensor]]:
        """What the untouched CLIP sees in whole pictures: the calibration's context, and class tokens `[B, W]` by block."""
        tower = self.context_clip
        side = image_side(tower)
        # Squeezed into CLIP's square together with the padding, by nearest pixels.
        squeezed = F.interpolate(clip_images.tensor, size=(side, side), mode="nearest")
        taps = {*self.context_blocks, *self.shift_blocks}
        with torch.no_grad():
            last, tapped = run_blocks(tower.transformer.resblocks, embed_image(tower, squeezed), taps)
            embeddings = project_tokens(tower, last.class_token)[:, 0]
        maps = [tapped[block].patch_map for block in self.context_blocks]
        class_tokens = {block: tapped[block].class_token[:, 0] for block in self.shift_blocks}
        return self.calibration.context(maps, embeddings), class_tokens

    def _regions(
        self, clip_images: Pictures, mask_logits: Tensor, geometry: Geometry, class_tokens: Mapping[int, Tensor]
    ) -> Regions:
        """What CLIP sees in the final masks."""
        found = []
        for index in range(len(geometry.images)):
            own_tokens = {block: tokens[index] for block, tokens in class_tokens.items()}
            probabilities = geometry.at_image_size(index, mask_logits[index]).sigmoid()
            found.append(self.regions(self.clip.visual, clip_images[index], probabilities, own_tokens))
        return Regions.stack(found)

    def classifier(self, text: Tensor) -> TextClassifier:
        """Of unit embeddings of queries and of regions."""
        return TextClassifier.scaled(text, self.void_embedding, _LOGIT_SCALE)

    def decode(self, encoded: EncodedMasks, text: Tensor) -> MaskPrediction:
        mask_logits, embeddings = encoded.outputs[0]
        classifier = self.classifier(text)
        class_logits = classifier(embeddings)
        assert encoded.regions is not None, "predictions are made in eval mode"
        probabilities = class_logits.softmax(dim=-1)
        # Void is dropped after the generator's softmax and before that of the regions.
        in_vocabulary, void = probabilities[..., :-1], probabilities[..., -1:]
        regions = classifier.classes(encoded.regions.embeddings).softmax(dim=-1)
        weights = ensemble_weights(in_vocabulary, regions, encoded.regions.valid, self.ensemble_weight)
        # Where every mask is empty there is nothing but the generator to go by.
        weights = torch.where(encoded.regions.valid.any(dim=1)[:, None, None], weights, in_vocabulary)
        return MaskPrediction(
            mask_logits=mask_logits,
            class_logits=class_logits,
            class_weights=weigh_against_void(weights, void) if self.weigh_void else weights,
            geometry=encoded.geometry,
            resize_scores=True,
        )

    def losses(
        self, encoded: EncodedMasks, text: Tensor, batch: list[dict[str, Any]], images: Pictures
    ) -> dict[str, Tensor]:
        return mask_losses(self.criterion, encoded, self.classifier(text), batch)

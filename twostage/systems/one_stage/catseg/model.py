"""CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation (Cho et al., CVPR 2024)."""

from __future__ import annotations

from typing import Any, NamedTuple

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor
from torch.profiler import record_function

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.loading import load_clip_from_config
from twostage.clip.statistics import Pictures
from twostage.clip.towers.finetuning import train_parts
from twostage.clip.towers.vit import (
    Tokens,
    embed_image,
    finish_block,
    merge_heads,
    project_qkv,
    project_tokens,
    require_vit,
    run_blocks,
)
from twostage.inference.blocks import class_blocks
from twostage.inference.early_rejection import EarlyRejection
from twostage.predictions.prediction import Prediction
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.one_stage.catseg.aggregator import Aggregator, Guidance
from twostage.systems.one_stage.catseg.building import (
    LayerBuilder,
    TowerShape,
    build_aggregator,
    build_guide,
    build_layer,
    vit_shape,
)
from twostage.systems.one_stage.catseg.guides import BackboneGuide, Guide
from twostage.systems.one_stage.catseg.views import ClassScores, SlidingWindow, WholeImage, views_from_config
from twostage.systems.one_stage.catseg.weights import checkpoint_table
from twostage.systems.one_stage.cost_aggregation.building import (
    build_correlation,
    build_pass_losses,
    build_presence,
)
from twostage.systems.one_stage.cost_aggregation.cost_map import cost_map
from twostage.systems.one_stage.cost_aggregation.kept_classes import among_all, take_classes
from twostage.systems.one_stage.cost_aggregation.losses import one_vs_rest_loss
from twostage.systems.one_stage.cost_aggregation.parts import Correlation, PassLosses, PresenceFilter


class Encoded(NamedTuple):
    """What CAT-Seg knows about images without the vocabulary.

    Attributes:
        embeddings: dense CLIP embeddings of the views `[V, D, h, w]`, not of unit length.
        guidance: of the aggregator.
        image_sizes: before padding.
        correlated: embeddings whose costs come beside, see `cost_map`.
    """

    embeddings: Tensor
    guidance: Guidance
    image_sizes: list[tuple[int, int]]
    correlated: Tensor | None = None


@META_ARCH_REGISTRY.register()
class CATSeg(OpenVocabularySegmenter[Encoded, Tensor]):
    """A fine-tuned CLIP whose image-text cost map is aggregated over pixels and classes and upsampled.

    Trainable: the aggregator, the guide, and the parts of CLIP named by `finetune`.
    """

    decode_has_layers = True

    @configurable
    def __init__(
        self,
        *,
        aggregator: Aggregator,
        guide: Guide,
        resolution: int,
        own_residual: bool,
        class_slots: int,
        early_rejection: EarlyRejection | None,
        train_views: WholeImage,
        test_views: WholeImage | SlidingWindow,
        finetune: str,
        correlation: Correlation | None = None,
        presence: PresenceFilter | None = None,
        pass_losses: PassLosses | None = None,
        **shared: Any,
    ) -> None:
        """
        Args:
            guide: where image guidance comes from.
            resolution: side of CLIP's input.
            own_residual: CLIP's last block adds each token's value to the token itself (v1), not to the class token (v2).
            class_slots: of more classes than this only the best of each view are aggregated; 0 for no limit.
            early_rejection: in evaluation, drops classes by the cost map before they are aggregated.
            train_views, test_views: what CLIP looks at.
            finetune: see `twostage.clip.towers.finetuning`.
            correlation: of dense embeddings with each other, before the cost map.
            presence: tells which classes an image shows; in evaluation only these go on.
            pass_losses: what the aggregator's layers report in training.
            shared: see `OpenVocabularySegmenter`.
        """
        super().__init__(**shared)
        train_parts(self.clip, finetune)
        self.aggregator = aggregator
        self.guide = guide
        self.resolution = resolution
        self.own_residual = own_residual
        self.class_slots = class_slots
        self.early_rejection = early_rejection
        self.correlation = correlation
        self.presence = presence
        self.pass_losses = pass_losses
        self.train_views = train_views
        self.test_views = test_views

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.CATSEG`, `MODEL.CLIP` and `TEST.SLIDING`."""
        clip, tokenizer = load_clip_from_config(cfg)
        require_vit(clip.visual, "CAT-Seg")
        shared = shared_arguments(
            cfg, clip, tokenizer, size_divisibility=cfg.MODEL.CATSEG.SIZE_DIVISIBILITY, per_template=True
        )
        return {**shared, **cls.own_arguments(cfg, vit_shape(clip.visual), build_pass_losses(cfg))}

    @staticmethod
    def own_arguments(
        cfg: CfgNode, tower: TowerShape, pass_losses: PassLosses | None, layer: LayerBuilder = build_layer
    ) -> dict[str, Any]:
        """Constructor arguments for a CLIP of shape `tower`, but for those of every segmenter."""
        keys = cfg.MODEL.CATSEG
        guide, channels = build_guide(cfg, tower)
        return {
            "aggregator": build_aggregator(cfg, tower, channels, pass_losses, layer),
            "guide": guide,
            "resolution": keys.RESOLUTION,
            "own_residual": keys.LAST_BLOCK_RESIDUAL == "own",
            "class_slots": keys.CLASS_SLOTS,
            "early_rejection": EarlyRejection.from_config(cfg),
            "train_views": WholeImage(),
            "test_views": views_from_config(cfg),
            "finetune": cfg.MODEL.CLIP.FINETUNE,
            "correlation": build_correlation(cfg),
            "presence": build_presence(cfg, tower.embedding),
            "pass_losses": pass_losses,
        }

    def checkpoint_table(self) -> CheckpointTable:
        """How official checkpoints relate to this model."""
        return checkpoint_table(has_backbone=isinstance(self.guide, BackboneGuide))

    @property
    def views(self) -> WholeImage | SlidingWindow:
        """What CLIP looks at now."""
        return self.train_views if self.training else self.test_views

    def encode(self, images: Pictures) -> Encoded:
        with record_function("trunk"):
            embeddings, tapped = self.dense_features(self.views.cut(images, self.resolution))
        with record_function("guidance"):
            maps = self.guide(images, self.views, embeddings, tapped)
            guidance = self.aggregator.guidance(*maps)
        dense, correlated = embeddings.patch_map, None
        if self.correlation is not None:
            with record_function("correlation"):
                dense, correlated = self.correlation(dense, maps.appearance)
        return Encoded(dense, guidance, [(h, w) for h, w in images.image_sizes], correlated)

    def dense_features(self, images: Tensor) -> tuple[Tokens, dict[int, Tokens]]:
        """CLIP embeddings of all tokens, and the tapped blocks' outputs, of `[V, 3, side, side]`.

        The last block passes every token's value through its output projection, without attention (MaskCLIP, Zhou et al.,
        ECCV 2022, section 3.2), and adds it to the class token or (v1) to the token itself.
        """
        visual = self.clip.visual
        *blocks, last = visual.transformer.resblocks
        tokens, taps = run_blocks(blocks, embed_image(visual, images), self.guide.taps)
        (value,) = project_qkv(last.attn, last.ln_1(tokens.x), "v")
        residual = tokens.x if self.own_residual else tokens.class_token
        x = finish_block(last, residual, merge_heads(value))
        if self.training and last.attn.in_proj_weight is None:
            # The query weight is trained like the others though nothing reads it: its gradient is zero and it decays.
            x = x + 0 * last.attn.q_proj_weight.sum()
        return Tokens(project_tokens(visual, x), tokens.grid), taps

    def decode(self, encoded: Encoded, text: Tensor) -> Prediction:
        return self.views.join(self.class_scores(encoded, text), encoded.image_sizes)

    def class_scores(self, encoded: Encoded, text: Tensor) -> ClassScores:
        """Logits of every view for unit text embeddings `[T, P, D]`."""
        num_classes, present = text.shape[0], None
        if self.presence is not None and not self.training:
            with record_function("presence"):
                present = self.presence.kept(encoded.embeddings, text)
                text = text if present is None else text[present]
        with record_function("cost map"):
            cost = cost_map(encoded.embeddings, text, encoded.correlated)
            words = text.expand(len(cost), -1, -1, -1)
            kept = self.kept_classes(cost)
            if kept is not None:
                cost, words = take_classes(cost, kept), take_classes(words, kept)
        logits = self.aggregator(encoded.embeddings, cost, words, encoded.guidance)
        if present is not None:
            kept = present.expand(len(cost), -1) if kept is None else present[kept]
        return ClassScores(logits, kept, num_classes)

    def kept_classes(self, cost: Tensor) -> Tensor | None:
        """Classes of a cost map `[V, T, P, h, w]` that are aggregated, ascending `[V, K]`; None where all are.

        With early rejection, those that some pixel of some view has among its best; then at most `class_slots` per view.
        """
        if self.training or self.early_rejection is None:
            return best_classes(cost, self.class_slots)
        likeness = cost.mean(dim=2).transpose(0, 1).flatten(1, 2)
        survivors = self.early_rejection.kept(likeness[part] for part in class_blocks(len(likeness)))
        best = best_classes(cost[:, survivors], self.class_slots)
        return survivors.expand(len(cost), -1) if best is None else survivors[best]

    def losses(
        self, encoded: Encoded, text: Tensor, batch: list[dict[str, Any]], images: ImageList
    ) -> dict[str, Tensor]:
        """`loss_sem_seg`: binary cross entropy of every class at every pixel, ignored pixels as negatives.

        With a presence head `loss_presence` besides, with mixtures of experts `loss_balance`.
        """
        labels = [entry["sem_seg"].to(encoded.embeddings.device) for entry in batch]
        stacked = ImageList.from_tensors(labels, self.size_divisibility, pad_value=255).tensor
        scores = self.class_scores(encoded, text)
        logits = scores.logits
        if scores.kept is not None:
            logits = among_all(logits, scores.kept, scores.num_classes)
        losses = {"loss_sem_seg": one_vs_rest_loss(logits, stacked)}
        if self.presence is not None:
            losses |= self.presence.losses(encoded.embeddings, text, stacked)
        return losses if self.pass_losses is None else losses | self.pass_losses.take()


def best_classes(cost: Tensor, count: int) -> Tensor | None:
    """The `count` classes of highest cost anywhere in a view, ascending `[V, count]`; None where all are taken.

    Args:
        cost: `[V, T, P, h, w]`.
        count: 0 for all.
    """
    if not 0 < count < cost.shape[1]:
        return None
    return cost.flatten(2).amax(dim=2).topk(count, dim=1).indices.sort(dim=1).values

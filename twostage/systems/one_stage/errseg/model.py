"""ERR-Seg: Efficient Redundancy Reduction for Open-Vocabulary Semantic Segmentation (Chen et al., Neurocomputing 2025)."""

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
from twostage.clip.towers.convnext import (
    dense_embeddings,
    hierarchical_features,
    require_convnext,
    set_regularisation,
    stage_strides,
    stage_widths,
)
from twostage.clip.towers.finetuning import train_parts
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.one_stage.cost_aggregation.cost_map import cost_map
from twostage.systems.one_stage.cost_aggregation.kept_classes import REJECTED_PROBABILITY, among_all, take_classes
from twostage.systems.one_stage.cost_aggregation.losses import one_vs_rest_loss
from twostage.systems.one_stage.cost_aggregation.squares import squares
from twostage.systems.one_stage.errseg.aggregator import Aggregator, Costs, Guidance
from twostage.systems.one_stage.errseg.building import build_aggregator, check_resolutions
from twostage.systems.one_stage.errseg.fine_pass import FinePass
from twostage.systems.one_stage.errseg.selection import present_classes, select_classes
from twostage.systems.one_stage.errseg.weights import checkpoint_table


class Encoded(NamedTuple):
    """What ERR-Seg knows about images without the vocabulary.

    Attributes:
        fine, coarse: dense CLIP embeddings `[B, D, h, w]` and `[B, D, h / 2, w / 2]`, not of unit length.
        guidance: of the aggregator.
        image_sizes: before padding.
    """

    fine: Tensor
    coarse: Tensor
    guidance: Guidance
    image_sizes: list[tuple[int, int]]


@META_ARCH_REGISTRY.register()
class ERRSeg(OpenVocabularySegmenter[Encoded, Tensor]):
    """A fine-tuned ConvNeXt CLIP whose cost maps at two strides are aggregated for the classes that pixels vote for."""

    decode_has_layers = True

    @configurable
    def __init__(
        self,
        *,
        aggregator: Aggregator,
        fine_pass: FinePass,
        resolution: int,
        test_resolution: int,
        slots: int,
        test_slots: int,
        finetune: str,
        **shared: Any,
    ) -> None:
        """
        Args:
            fine_pass: gives embeddings on a grid twice as fine as CLIP's own.
            resolution, test_resolution: side of the square that images are resized to.
            slots, test_slots: classes kept per image.
            finetune: which of CLIP's parameters are trained, see `train_parts`.
            shared: see `OpenVocabularySegmenter`.
        """
        super().__init__(**shared)
        train_parts(self.clip, finetune)
        self.aggregator = aggregator
        self.fine_pass = fine_pass
        self.resolution, self.test_resolution = resolution, test_resolution
        self.slots, self.test_slots = slots, test_slots

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.ERRSEG` and `MODEL.CLIP`."""
        clip, tokenizer = load_clip_from_config(cfg)
        require_convnext(clip.visual, "ERR-Seg")
        check_resolutions(cfg, stage_strides(clip.visual)[3])
        keys = cfg.MODEL.ERRSEG
        set_regularisation(clip.visual, drop_path=keys.CLIP_DROP_PATH, dropout=keys.CLIP_DROPOUT)
        return {
            **shared_arguments(cfg, clip, tokenizer, size_divisibility=keys.SIZE_DIVISIBILITY, per_template=True),
            "aggregator": build_aggregator(cfg, stage_widths(clip.visual), clip.text_projection.shape[1]),
            "fine_pass": FinePass(visual=clip.visual),
            "resolution": keys.RESOLUTION,
            "test_resolution": keys.TEST_RESOLUTION,
            "slots": keys.SLOTS,
            "test_slots": keys.TEST_SLOTS,
            "finetune": cfg.MODEL.CLIP.FINETUNE,
        }

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table()

    def encode(self, images: Pictures) -> Encoded:
        side = self.resolution if self.training else self.test_resolution
        visual = self.clip.visual
        with record_function("trunk"):
            pyramid = hierarchical_features(visual, squares(images, side, with_padding=self.training))
            coarse = dense_embeddings(visual, pyramid.res5)
            fine = self.fine_pass(visual, pyramid.res4)
        with record_function("guidance"):
            guidance = self.aggregator.guidance(pyramid)
        return Encoded(fine, coarse, guidance, [(h, w) for h, w in images.image_sizes])

    def costs(self, encoded: Encoded, text: Tensor) -> Costs:
        """Of all classes, for unit text embeddings `[T, P, D]`."""
        return Costs(cost_map(encoded.fine, text), cost_map(encoded.coarse, text))

    def class_logits(self, encoded: Encoded, text: Tensor, costs: Costs, kept: Tensor) -> Tensor:
        """Logits `[B, K, 4h, 4w]` of the classes `kept` `[B, K]`."""
        words = take_classes(text.expand(len(kept), -1, -1, -1), kept)
        return self.aggregator(Costs(*(take_classes(cost, kept) for cost in costs)), words, encoded.guidance)

    def decode(self, encoded: Encoded, text: Tensor) -> DensePrediction:
        """Class probabilities, each class for itself; they, not the logits, are resized to the output."""
        with record_function("cost map"):
            costs = self.costs(encoded, text)
        with record_function("selection"):
            kept = select_classes(costs.fine, self.test_slots)
        logits = self.class_logits(encoded, text, costs, kept)
        return DensePrediction(
            logits=logits.sigmoid(),
            geometry=Geometry.on_grid((logits.shape[-2], logits.shape[-1]), encoded.image_sizes),
            num_classes=len(text),
            kept=kept if kept.shape[1] < len(text) else None,
            fill=REJECTED_PROBABILITY,
        )

    def losses(
        self, encoded: Encoded, text: Tensor, batch: list[dict[str, Any]], images: ImageList
    ) -> dict[str, Tensor]:
        """`loss_sem_seg`: binary cross entropy of every class at every pixel, ignored pixels as negatives.

        A class that is not kept has a logit of -100, so that one of its pixels costs 100.
        """
        labels = [entry["sem_seg"].to(encoded.fine.device) for entry in batch]
        costs = self.costs(encoded, text)
        present = [present_classes(label, len(text)) for label in labels]
        kept = select_classes(costs.fine, self.slots, present)
        logits = self.class_logits(encoded, text, costs, kept)
        stacked = ImageList.from_tensors(labels, self.size_divisibility, pad_value=255).tensor
        # In float32 also where the rest runs in half precision.
        return {"loss_sem_seg": one_vs_rest_loss(among_all(logits.float(), kept, len(text)), stacked)}

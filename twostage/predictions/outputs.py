"""From a prediction to the dicts that a model returns, under Detectron2's keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, Literal

from detectron2.config import CfgNode

from twostage.errors import UserError
from twostage.inference.resampling import Size
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.prediction import Prediction
from twostage.predictions.segments import instances, panoptic_segments, proposals


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """What the outputs of a model hold; the keys of `twostage.predictions.keys` say what each means.

    Attributes:
        semantic: "labels" gives `sem_seg_labels` int64 `[height, width]`, "scores" `sem_seg` `[C, height, width]`.
        panoptic: also `panoptic_seg`, see `panoptic_segments`.
        instances: also `instances`, see `twostage.predictions.segments.instances`.
        proposals: also `proposals`, see `twostage.predictions.segments.proposals`.
        score_threshold, overlap_threshold: of `panoptic_segments`.
        instances_per_image: `top_k` of `instances`.
    """

    semantic: Literal["labels", "scores"] = "labels"
    panoptic: bool = False
    instances: bool = False
    proposals: bool = False
    score_threshold: float = 0.8
    overlap_threshold: float = 0.8
    instances_per_image: int = 100

    @classmethod
    def from_config(cls, cfg: CfgNode) -> OutputSettings:
        """The settings under `TEST`."""
        return cls(
            semantic=cfg.TEST.SEMANTIC_OUTPUT,
            panoptic=cfg.TEST.PANOPTIC,
            instances=cfg.TEST.INSTANCES,
            proposals=cfg.TEST.PROPOSALS,
            score_threshold=cfg.TEST.PANOPTIC_SCORE,
            overlap_threshold=cfg.TEST.PANOPTIC_OVERLAP,
            instances_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        )


def finish(
    prediction: Prediction,
    sizes: Sequence[Size],
    *,
    things: Collection[int] | None = None,
    settings: OutputSettings,
) -> list[dict[str, Any]]:
    """One dict per image at its size of `sizes`, holding what `settings` ask for.

    Segments come from predictions of masks only; from others the dicts hold the semantic map and nothing else.

    Args:
        things: classes that come as countable things; None where nobody said, which makes instances of every class.

    Raises:
        UserError: panoptic segments without `things`.
    """
    outputs: dict[str, Sequence[Any]] = {}
    if settings.semantic == "scores":
        outputs["sem_seg"] = prediction.scores(sizes)
    else:
        outputs["sem_seg_labels"] = prediction.label_maps(sizes)
    if isinstance(prediction, MaskPrediction):
        outputs |= _segments(prediction, sizes, things, settings)
    return [dict(zip(outputs, values, strict=True)) for values in zip(*outputs.values(), strict=True)]


def _segments(
    prediction: MaskPrediction, sizes: Sequence[Size], things: Collection[int] | None, settings: OutputSettings
) -> dict[str, Sequence[Any]]:
    """Output key -> one entry per image."""
    found: dict[str, Sequence[Any]] = {}
    if settings.panoptic:
        if things is None:
            raise UserError(
                "panoptic segments (TEST.PANOPTIC) need to know which classes are countable: give batch entries 'things', "
                "indices of the vocabulary"
            )
        found["panoptic_seg"] = panoptic_segments(
            prediction,
            sizes,
            things,
            score_threshold=settings.score_threshold,
            overlap_threshold=settings.overlap_threshold,
        )
    if settings.instances:
        found["instances"] = instances(prediction, sizes, things, top_k=settings.instances_per_image)
    if settings.proposals:
        found["proposals"] = proposals(prediction, sizes)
    return found

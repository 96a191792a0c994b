"""What a model's outputs hold."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    # The semantic map: "labels" gives `sem_seg_labels` [height, width], whose memory does not grow with the number of
    # classes; "scores" gives `sem_seg` [C, height, width], Detectron2's convention.
    cfg.TEST.SEMANTIC_OUTPUT = "labels"
    # From systems that predict masks also `panoptic_seg`, and panoptic quality in evaluation where the dataset has segments.
    cfg.TEST.PANOPTIC = False
    # Panoptic segments are made of masks whose best class is at least this probable (Mask2Former 0.8, FC-CLIP 0.0), ...
    cfg.TEST.PANOPTIC_SCORE = 0.8
    # ... and that keep at least this share of their area when masks compete for pixels.
    cfg.TEST.PANOPTIC_OVERLAP = 0.8
    # From systems that predict masks also `instances` (scores, pred_classes, pred_masks): of the best
    # TEST.DETECTIONS_PER_IMAGE pairs of a mask and a class those of things (batch entry "things"; without it, all).
    cfg.TEST.INSTANCES = False
    # From systems that predict masks also `proposals` (scores, pred_masks), whatever their class, and in evaluation their
    # average recall at 10, 50 and 100 and best IoU.
    cfg.TEST.PROPOSALS = False


GROUPS = (
    KeyGroup(
        add=_add,
        choices={"TEST.SEMANTIC_OUTPUT": ("labels", "scores")},
        positive=("TEST.DETECTIONS_PER_IMAGE",),
        fraction=("TEST.PANOPTIC_SCORE", "TEST.PANOPTIC_OVERLAP"),
    ),
)

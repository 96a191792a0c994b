"""Keys of MaskCLIP+; its teacher's are `MODEL.TRAINING_FREE`."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.MASKCLIP_PLUS = CN()
    keys = cfg.MODEL.MASKCLIP_PLUS
    # The network that is trained: a timm ResNet, or the image tower of an open_clip ConvNeXt ("toybox-convnext").
    keys.BACKBONE = "resnet101c"
    # A ResNet's start: ImageNet weights (downloaded), or random ones.
    keys.PRETRAINED = True
    # A ConvNeXt's start, as MODEL.CLIP.PRETRAINED: open_clip's tag, a file, "toybox", or "" for random weights.
    keys.CLIP_WEIGHTS = ""
    keys.OUTPUT_STRIDE = 8  # by dilation
    # The network sees pictures enlarged by this; the teacher sees them as they are.
    keys.ENLARGE = 1.0
    keys.HEAD = "deeplabv2"
    # Classes of the training set whose labels are hidden and made up; [] for all (annotation-free).
    keys.HIDDEN_CLASSES = []
    # CLIP makes up labels before this iteration, the network itself from then on; -1: CLIP always does.
    keys.CLIP_GUIDED_ITERATIONS = -1
    # Class 0 of the vocabulary is "background" and gets a learned embedding.
    keys.LEARNED_BACKGROUND = False


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.MASKCLIP_PLUS
    if keys.CLIP_WEIGHTS and keys.BACKBONE.startswith("resnet"):
        raise UserError(
            f"MODEL.MASKCLIP_PLUS.CLIP_WEIGHTS {keys.CLIP_WEIGHTS!r} are for a CLIP's ConvNeXt, but "
            f"MODEL.MASKCLIP_PLUS.BACKBONE is {keys.BACKBONE!r}"
        )
    if keys.LEARNED_BACKGROUND and 0 in keys.HIDDEN_CLASSES:
        raise UserError(
            "MODEL.MASKCLIP_PLUS.HIDDEN_CLASSES holds 0, the background, which has no name to make labels from; take it "
            "out, or set LEARNED_BACKGROUND to False"
        )
    if keys.LEARNED_BACKGROUND and not keys.HIDDEN_CLASSES:
        raise UserError(
            "MODEL.MASKCLIP_PLUS.LEARNED_BACKGROUND needs labels of the background; list the classes without labels in "
            "HIDDEN_CLASSES"
        )


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.MASKCLIP_PLUS.HEAD": ("deeplabv2", "deeplabv3plus"),
            "MODEL.MASKCLIP_PLUS.OUTPUT_STRIDE": (8, 16, 32),
        },
        positive=("MODEL.MASKCLIP_PLUS.ENLARGE",),
        check=_check,
    ),
)

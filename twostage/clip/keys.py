"""The model as a whole and its CLIP side."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup

CLIP_PIXEL_MEAN = [122.7709383, 116.7460125, 104.09373615]
CLIP_PIXEL_STD = [68.5005327, 66.6321579, 70.32316305]


def _add(cfg: CN) -> None:
    cfg.MODEL.DEVICE = "auto"  # auto: cuda where there is one, else cpu
    cfg.MODEL.META_ARCHITECTURE = "SAN"
    cfg.MODEL.PIXEL_MEAN = list(CLIP_PIXEL_MEAN)  # RGB, on 0..255
    cfg.MODEL.PIXEL_STD = list(CLIP_PIXEL_STD)
    cfg.MODEL.CLIP = CN()
    # An open_clip model name, or one of ours ("toybox-vit", "toybox-convnext").
    cfg.MODEL.CLIP.NAME = "ViT-B-16"
    # An open_clip tag ("openai", "laion2b_s34b_b88k"), a local file, "toybox" (shipped), or "" for random weights
    # (for a MODEL.WEIGHTS file that holds CLIP as well, and for tests).
    cfg.MODEL.CLIP.PRETRAINED = "openai"
    # auto: chosen from the tag (OpenAI weights need QuickGELU); on / off: forced, an error where the tag disagrees.
    cfg.MODEL.CLIP.QUICK_GELU = "auto"
    # Layers of mask prompts in the image tower (OVSeg): learned tokens for the blank patches of masked crops. 0: none.
    cfg.MODEL.CLIP.MASK_PROMPT_DEPTH = 0
    # Prompt templates: single | scene (1, CAT-Seg's) | vild (14) | imagenet (80) |
    # imagenet_scene (85, MaskCLIP's).
    cfg.MODEL.CLIP.TEMPLATES = "vild"
    # True: the mean over templates is that of unit vectors; False: that of the plain text features (SegCLIP).
    cfg.MODEL.CLIP.UNIT_PROMPTS = True
    # True: "sofa, couch" is two synonyms, embedded apart and averaged; False: the whole string is one name.
    cfg.MODEL.CLIP.SPLIT_SYNONYMS = True
    # Of split synonyms only the first is used.
    cfg.MODEL.CLIP.FIRST_SYNONYM = False
    # Which of CLIP's parameters are trained, in systems that fine-tune it (CAT-Seg, SED); see clip/towers/finetuning.py.
    cfg.MODEL.CLIP.FINETUNE = "none"
    # Prompts per batch of the text tower.
    cfg.MODEL.CLIP.TEXT_BATCH_SIZE = 256
    # Folder of the text-embedding cache ("" switches it off).
    cfg.MODEL.CLIP.TEXT_CACHE = "~/.cache/twostage/text"


def _check(cfg: CN) -> None:
    if cfg.MODEL.CLIP.MASK_PROMPT_DEPTH < 0:
        raise UserError(
            f"MODEL.CLIP.MASK_PROMPT_DEPTH is {cfg.MODEL.CLIP.MASK_PROMPT_DEPTH}; it must be 0 (none) or more"
        )
    if cfg.MODEL.CLIP.FIRST_SYNONYM and not cfg.MODEL.CLIP.SPLIT_SYNONYMS:
        raise UserError("MODEL.CLIP.FIRST_SYNONYM True needs MODEL.CLIP.SPLIT_SYNONYMS True")
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        value = cfg.MODEL[key.removeprefix("MODEL.")]
        if not isinstance(value, list | tuple) or len(value) != 3:
            raise UserError(f"{key} is {value!r}; it must hold three numbers (R, G, B on 0..255)")


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.CLIP.QUICK_GELU": ("auto", "on", "off"),
            "MODEL.CLIP.TEMPLATES": ("single", "scene", "vild", "imagenet", "imagenet_scene"),
            "MODEL.CLIP.FINETUNE": ("none", "query_value", "visual_attention", "transformers", "visual"),
        },
        positive=("MODEL.CLIP.TEXT_BATCH_SIZE",),
        paths=("MODEL.WEIGHTS", "MODEL.CLIP.PRETRAINED"),
        check=_check,
    ),
)

"""The model as a whole and its CLIP side, and the words that options about CLIP are given in."""

from __future__ import annotations

from typing import Literal, get_args

from detectron2.config import CfgNode as CN

from twostage.errors import UserError, shown
from twostage.keys import KeyGroup

CLIP_PIXEL_MEAN = [122.7709383, 116.7460125, 104.09373615]
CLIP_PIXEL_STD = [68.5005327, 66.6321579, 70.32316305]

# Attentions of the last block that give dense features (tables in clip/dense/attentions.py) ...
Attention = Literal["vanilla", "maskclip", "sclip", "naclip", "key_key", "neighbourhood", "clearclip"]
# ... and methods that change several blocks (clip/dense/two_path.py).
DenseMethod = Literal[Attention, "clip_surgery", "gem"]

# How a square position embedding is fitted to another patch grid, and when it is left alone; systems differ, and it changes
# numbers. All but "bilinear" are bicubic.
# - "size": to the grid's size, unless the grid is the square itself (CLIP, SAN).
# - "size_by_count": the same, but left alone whenever the number of patches agrees, whatever the shape (mmseg's ViT).
# - "scale": by the factors (h + 0.1) / g, which also set where the samples lie; left alone by count (SCLIP, NACLIP).
# - "scale_by_shape": the same, but left alone only where the grid is the square itself (DINO).
# - "antialias": to the grid's size with antialiasing (GEM, DINOv2 with registers).
# - "bilinear": to the grid's size (CLIP Surgery).
PositionRule = Literal["size", "size_by_count", "scale", "scale_by_shape", "antialias", "bilinear"]

# Sets of prompt templates (clip/templates.py): 1 for "single", "photo" (CLIP-DIY) and "scene" (CAT-Seg), 14 for "vild",
# 80 for "imagenet", 85 for "imagenet_scene" (MaskCLIP), 7 for "imagenet_seven" (Talk2DINO).
TemplateSet = Literal["single", "photo", "bare", "scene", "vild", "imagenet", "imagenet_scene", "imagenet_seven"]

# Choice of which parameters are trained -> regular expression for their names (open_clip's).
TRAINED_PARAMETERS = {
    "none": None,
    # CAT-Seg v2 ("attention"): query and value weights of every block of both towers. Biases stay frozen, and so do the
    # position embeddings, whose names the published rule misses.
    "query_value": r"(visual\.)?transformer\..*attn\.[qv]_proj_weight",
    # PCA-Seg on EVA02: query and value weights of the image tower; of the text tower, keys too.
    "eva_query_value": r"visual\.trunk\.blocks\..*attn\.[qv]_proj\.weight|text\.transformer\..*attn\.in_proj_weight",
    # CAT-Seg v1 ("attention"): all attention parameters and the position embedding of the image tower.
    "visual_attention": r"visual\.(.*attn\..*|positional_embedding)",
    # CAT-Seg v2 ("full"): both transformers.
    "transformers": r"(visual\.)?transformer\..*",
    # SED ("full"): the image tower.
    "visual": r"visual\..*",
    # ERR-Seg ("weight"): of a ConvNeXt its layer scales, depthwise and feed-forward weights (those of the projection head
    # with them); of the text tower the attention's and the first feed-forward weights. Biases and norms stay frozen.
    "weights": (
        r"visual\.(.*gamma.*|.*(mlp|conv_dw).*weight.*)"
        r"|transformer\..*(attn\.in_proj_weight|mlp\.c_fc\.weight)"
    ),
}


def _add(cfg: CN) -> None:
    cfg.MODEL.DEVICE = "auto"  # auto: cuda where there is one, else cpu
    # Of inference: float32, bfloat16, float16 (GPUs only), or fast: whichever of them is fastest here. What stays float32
    # in any case: docs/precision.md. Training has SOLVER.AMP.
    cfg.MODEL.PRECISION = "float32"
    cfg.MODEL.META_ARCHITECTURE = "SAN"
    cfg.MODEL.PIXEL_MEAN = list(CLIP_PIXEL_MEAN)  # RGB, on 0..255
    cfg.MODEL.PIXEL_STD = list(CLIP_PIXEL_STD)
    cfg.MODEL.CLIP = CN()
    # An open_clip model name, or one of ours ("toybox-vit", "toybox-convnext").
    cfg.MODEL.CLIP.NAME = "ViT-B-16"
    # An open_clip tag ("openai", "laion2b_s34b_b88k"), a file, `hf://owner/repository/file`, an https address, "toybox"
    # (shipped), or "" for random weights (for a MODEL.WEIGHTS file that holds CLIP as well, and for tests).
    cfg.MODEL.CLIP.PRETRAINED = "openai"
    # auto: chosen from the tag (OpenAI weights need QuickGELU); on / off: forced, an error where the tag disagrees.
    cfg.MODEL.CLIP.QUICK_GELU = "auto"
    # Layers of mask prompts in the image tower (OVSeg): learned tokens for the blank patches of masked crops. 0: none.
    cfg.MODEL.CLIP.MASK_PROMPT_DEPTH = 0
    # Prompt templates, see TemplateSet.
    cfg.MODEL.CLIP.TEMPLATES = "vild"
    # True: the mean over templates is that of unit vectors; False: that of the plain text features (SegCLIP).
    cfg.MODEL.CLIP.UNIT_PROMPTS = True
    # True: "sofa, couch" is two synonyms, embedded apart and averaged; False: the whole string is one name.
    cfg.MODEL.CLIP.SPLIT_SYNONYMS = True
    # Of split synonyms only the first is used.
    cfg.MODEL.CLIP.FIRST_SYNONYM = False
    # Which of CLIP's parameters are trained, in systems that fine-tune it (CAT-Seg, SED, ERR-Seg, PCA-Seg);
    # see TRAINED_PARAMETERS.
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
            raise UserError(f"{key} is {shown(value)}; it must hold three numbers (R, G, B on 0..255)")
    if min(cfg.MODEL.PIXEL_STD) <= 0:
        raise UserError(
            f"MODEL.PIXEL_STD is {shown(cfg.MODEL.PIXEL_STD)}; pixels are divided by it, so give numbers above 0"
        )


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.PRECISION": ("float32", "bfloat16", "float16", "fast"),
            "MODEL.CLIP.QUICK_GELU": ("auto", "on", "off"),
            "MODEL.CLIP.TEMPLATES": get_args(TemplateSet),
            "MODEL.CLIP.FINETUNE": tuple(TRAINED_PARAMETERS),
        },
        positive=("MODEL.CLIP.TEXT_BATCH_SIZE",),
        paths=("MODEL.WEIGHTS", "MODEL.CLIP.PRETRAINED"),
        check=_check,
    ),
)

"""Keys of training-free dense CLIP."""

from __future__ import annotations

from typing import get_args

from detectron2.config import CfgNode as CN

from twostage.clip.keys import DenseMethod, PositionRule
from twostage.errors import UserError
from twostage.inference.keys import Padding
from twostage.keys import KeyGroup

METHODS = get_args(DenseMethod)


def _add(cfg: CN) -> None:
    cfg.MODEL.TRAINING_FREE = CN()
    keys = cfg.MODEL.TRAINING_FREE
    # What CLIP's last block (clip_surgery, gem: the last blocks) does instead of its attention; see
    # twostage/clip/dense/attentions.py.
    keys.METHOD = "maskclip"
    # full: the last block keeps residual and MLP; reduced: only attention and output projection; auto: as published.
    keys.LAST_BLOCK = "auto"
    # naclip, neighbourhood: standard deviation of the neighbourhood, in patches.
    keys.GAUSSIAN_STD = 5.0
    # clip_surgery, gem: how many last blocks run twice.
    keys.SPLIT_DEPTH = 6
    # gem: rounds of self-self attention, and its temperature (0: from the tokens' mean length).
    keys.GEM_ITERATIONS = 1
    keys.GEM_TEMPERATURE = 0.0
    # clip_surgery: take out what the names have in common.
    keys.FEATURE_SURGERY = False
    # How the position embedding is fitted to the patch grid, see PositionRule in twostage/clip/keys.py.
    keys.POSITION_RULE = "size"
    # Zero padding to whole patches, see Padding in twostage/inference/keys.py.
    keys.PADDING = "none"
    # Without sliding windows: resize similarities to the network's input size, then to the output; False: at once.
    keys.THROUGH_INPUT_SIZE = True
    # MaskCLIP's released configs run CLIP's ViT with the erf GELU and this epsilon of the layer norms.
    keys.EXACT_GELU = False
    keys.NORM_EPS = 1e-5
    # Windows of one image that go through CLIP together (memory).
    keys.WINDOWS_PER_BATCH = 64
    # MaskCLIP's refinements (published thresholds: 1.0 and 0.5); 0: off.
    keys.KEY_SMOOTHING = 0.0
    keys.PROMPT_DENOISING = 0.0
    # Pixel-adaptive mask refinement at the output size: rounds (0: off) and distances in pixels.
    keys.PAMR_STEPS = 0
    keys.PAMR_DILATIONS = [8, 16]
    # Factor of the similarities before the softmax over names.
    keys.LOGIT_SCALE = 40.0
    # maximum: a class takes the best of its synonyms; mean: its synonyms' embeddings are averaged.
    keys.SYNONYMS = "maximum"
    # Names that stand for the first class where that is called "background"; [] for the word itself.
    keys.BACKGROUND_WORDS = []
    # Pixels whose best class has a lower probability become class 0, so only for vocabularies whose class 0 is the
    # background; 0: off.
    keys.PROBABILITY_THRESHOLD = 0.0
    # Classes from 1 on that win at most this share of the foreground are dropped (SCLIP); 0: off.
    keys.AREA_THRESHOLD = 0.0
    # Class probabilities are divided by their sum (NACLIP's scores; labels stay).
    keys.RENORMALISE = False


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.TRAINING_FREE
    two_path = keys.METHOD in ("clip_surgery", "gem")
    if two_path and keys.LAST_BLOCK != "auto":
        raise UserError(
            f"MODEL.TRAINING_FREE.LAST_BLOCK is {keys.LAST_BLOCK!r}, but METHOD {keys.METHOD!r} has no last block of its "
            "own; use 'auto'"
        )
    if keys.FEATURE_SURGERY and not two_path:
        raise UserError("MODEL.TRAINING_FREE.FEATURE_SURGERY needs METHOD 'clip_surgery' or 'gem'")
    if keys.KEY_SMOOTHING and (keys.METHOD != "maskclip" or cfg.TEST.SLIDING.ENABLED):
        raise UserError(
            "MODEL.TRAINING_FREE.KEY_SMOOTHING is defined for METHOD 'maskclip' on whole images; set it to 0, or "
            "TEST.SLIDING.ENABLED to False"
        )
    if keys.PAMR_STEPS < 0 or not keys.PAMR_DILATIONS or min(keys.PAMR_DILATIONS) < 1:
        raise UserError(
            f"MODEL.TRAINING_FREE.PAMR_STEPS {keys.PAMR_STEPS} must not be negative and PAMR_DILATIONS "
            f"{keys.PAMR_DILATIONS} must hold distances of at least 1 pixel"
        )
    if keys.GEM_TEMPERATURE < 0:
        raise UserError(f"MODEL.TRAINING_FREE.GEM_TEMPERATURE is {keys.GEM_TEMPERATURE}; it must not be negative")
    if cfg.MODEL.META_ARCHITECTURE == "TrainingFree" and (cfg.TEST.SLIDING.CANVAS or cfg.TEST.SLIDING.WHOLE_IMAGE):
        raise UserError("TEST.SLIDING.CANVAS and TEST.SLIDING.WHOLE_IMAGE are not defined for training-free systems")


def require_own_attention(cfg: CN, system: str) -> None:
    """UserError where a key asks for another attention in CLIP's last block, or for windows that are not defined here."""
    keys = cfg.MODEL.TRAINING_FREE
    if keys.METHOD != "maskclip" or keys.KEY_SMOOTHING:
        raise UserError(
            f"MODEL.TRAINING_FREE.METHOD is {keys.METHOD!r} and KEY_SMOOTHING {keys.KEY_SMOOTHING}, but {system}'s last "
            "block has an attention of its own; leave them at 'maskclip' and 0"
        )
    if cfg.TEST.SLIDING.CANVAS or cfg.TEST.SLIDING.WHOLE_IMAGE:
        raise UserError("TEST.SLIDING.CANVAS and TEST.SLIDING.WHOLE_IMAGE are not defined for training-free systems")


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.TRAINING_FREE.METHOD": METHODS,
            "MODEL.TRAINING_FREE.LAST_BLOCK": ("auto", "full", "reduced"),
            "MODEL.TRAINING_FREE.POSITION_RULE": get_args(PositionRule),
            "MODEL.TRAINING_FREE.PADDING": get_args(Padding),
            "MODEL.TRAINING_FREE.SYNONYMS": ("maximum", "mean"),
        },
        positive=(
            "MODEL.TRAINING_FREE.GAUSSIAN_STD",
            "MODEL.TRAINING_FREE.GEM_ITERATIONS",
            "MODEL.TRAINING_FREE.NORM_EPS",
            "MODEL.TRAINING_FREE.WINDOWS_PER_BATCH",
            "MODEL.TRAINING_FREE.LOGIT_SCALE",
        ),
        fraction=(
            "MODEL.TRAINING_FREE.KEY_SMOOTHING",
            "MODEL.TRAINING_FREE.PROMPT_DENOISING",
            "MODEL.TRAINING_FREE.PROBABILITY_THRESHOLD",
            "MODEL.TRAINING_FREE.AREA_THRESHOLD",
        ),
        check=_check,
    ),
)

"""Every config key that twostage adds to Detectron2's, once, with its meaning; and how a config is read and checked.

`load_config` is the only way tools build a config: defaults, then the yaml (with `_BASE_`), then `KEY VALUE` overrides,
then `validate_config`. Whatever is wrong raises `UserError` naming the key, the value and what is allowed.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from pathlib import Path

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from twostage.errors import UserError, near_names

CLIP_PIXEL_MEAN = [122.7709383, 116.7460125, 104.09373615]
CLIP_PIXEL_STD = [68.5005327, 66.6321579, 70.32316305]


def add_twostage_config(cfg: CN) -> None:
    """Add twostage's keys to Detectron2's defaults `cfg` (in place)."""
    _add_clip(cfg)
    _add_san(cfg)
    _add_mask_loss(cfg)
    _add_input(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def _add_clip(cfg: CN) -> None:
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
    # Prompt templates, averaged: single | vild (14) | imagenet (80).
    cfg.MODEL.CLIP.TEMPLATES = "vild"
    # True: "sofa, couch" is two synonyms, embedded apart and averaged; False: the whole string is one name.
    cfg.MODEL.CLIP.SPLIT_SYNONYMS = True
    # Prompts per batch of the text tower.
    cfg.MODEL.CLIP.TEXT_BATCH_SIZE = 256
    # Folder of the text-embedding cache ("" switches it off).
    cfg.MODEL.CLIP.TEXT_CACHE = "~/.cache/twostage/text"


def _add_san(cfg: CN) -> None:
    cfg.MODEL.SAN = CN()
    # Scale of CLIP's input relative to the side adapter's.
    cfg.MODEL.SAN.CLIP_RESOLUTION = 0.5
    # CLIP blocks before this one extract features, the rest recognise masks.
    cfg.MODEL.SAN.SPLIT_BLOCK = 9
    # "clip block -> side adapter block" fusions; 0 is before the first block.
    cfg.MODEL.SAN.FUSION_MAP = ["0->0", "3->1", "6->2", "9->3"]
    cfg.MODEL.SAN.NUM_QUERIES = 100
    # Side adapter: a plain ViT.
    cfg.MODEL.SAN.WIDTH = 240
    cfg.MODEL.SAN.DEPTH = 8
    cfg.MODEL.SAN.HEADS = 6
    cfg.MODEL.SAN.PATCH_SIZE = 16
    cfg.MODEL.SAN.IMAGE_SIZE = 640  # of the position embedding
    # Side adapter blocks whose output is decoded in training in addition to the last one.
    cfg.MODEL.SAN.AUXILIARY_BLOCKS = [7]
    # Channels of the mask and attention-bias decoder.
    cfg.MODEL.SAN.DECODER_CHANNELS = 256
    # Images are zero-padded, after normalisation, to a multiple of this.
    cfg.MODEL.SAN.SIZE_DIVISIBILITY = 32


def _add_mask_loss(cfg: CN) -> None:
    # Set-prediction losses of mask-classification systems (Mask2Former), also the matching costs.
    cfg.MODEL.MASK_LOSS = CN()
    cfg.MODEL.MASK_LOSS.CLASS_WEIGHT = 2.0
    cfg.MODEL.MASK_LOSS.MASK_WEIGHT = 5.0
    cfg.MODEL.MASK_LOSS.DICE_WEIGHT = 5.0
    # Weight of the void class in the classification loss.
    cfg.MODEL.MASK_LOSS.NO_OBJECT_WEIGHT = 0.1
    # Points per mask, candidates per point and share of points taken where the mask is most uncertain (PointRend).
    cfg.MODEL.MASK_LOSS.NUM_POINTS = 12544
    cfg.MODEL.MASK_LOSS.OVERSAMPLE_RATIO = 3.0
    cfg.MODEL.MASK_LOSS.IMPORTANCE_SAMPLE_RATIO = 0.75


def _add_input(cfg: CN) -> None:
    cfg.INPUT.FORMAT = "RGB"
    # SSD colour jitter in training.
    cfg.INPUT.COLOR_AUG_SSD = False
    # A crop in which one category covers more than this share of the pixels is drawn again (1.0: any crop).
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Training images are padded right and bottom to this size in pixels (0: not), with this value before normalisation.
    cfg.INPUT.PAD_TO = 0
    cfg.INPUT.PAD_VALUE = 128


def _add_solver(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # ADAMW | SGD
    # Learning-rate multipliers of the parameters under `backbone` and of CLIP's own.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    cfg.SOLVER.CLIP_MULTIPLIER = 1.0
    # Weight decay of position and query embeddings.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # WarmupPolyLR: lr = base * (1 - i / MAX_ITER)^power, not below base * CONSTANT_ENDING.
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    # Detectron2 knows "value" and "norm" (per tensor); "full_model" clips the norm of all gradients together.
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    # Mixed precision on GPU: float16 | bfloat16. Ignored on CPU.
    cfg.SOLVER.AMP.PRECISION = "float16"
    # Exponential moving average of the trainable weights; used for evaluation, saved beside the weights.
    cfg.SOLVER.EMA = CN()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.999
    # Periodic checkpoints kept, the newest ones (0: all); model_final.pth is kept besides.
    cfg.SOLVER.CHECKPOINTS_KEPT = 3


def _add_test(cfg: CN) -> None:
    # Also write the predicted label maps as PNG files under OUTPUT_DIR/inference.
    cfg.TEST.SAVE_PREDICTIONS = False


_CHOICES = {
    "MODEL.CLIP.QUICK_GELU": ("auto", "on", "off"),
    "MODEL.CLIP.TEMPLATES": ("single", "vild", "imagenet"),
    "SOLVER.OPTIMIZER": ("ADAMW", "SGD"),
    "SOLVER.AMP.PRECISION": ("float16", "bfloat16"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR"),
    "INPUT.FORMAT": ("RGB",),
}
_POSITIVE = (
    "MODEL.CLIP.TEXT_BATCH_SIZE",
    "MODEL.SAN.CLIP_RESOLUTION",
    "MODEL.SAN.NUM_QUERIES",
    "MODEL.SAN.WIDTH",
    "MODEL.SAN.DEPTH",
    "MODEL.SAN.HEADS",
    "MODEL.SAN.PATCH_SIZE",
    "MODEL.SAN.SIZE_DIVISIBILITY",
    "MODEL.MASK_LOSS.NUM_POINTS",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.BASE_LR",
    "SOLVER.MAX_ITER",
    "SOLVER.CHECKPOINT_PERIOD",
)
_FRACTION = (
    "MODEL.MASK_LOSS.IMPORTANCE_SAMPLE_RATIO",
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",
    "SOLVER.EMA.DECAY",
)


def default_config() -> CN:
    """Detectron2's defaults plus twostage's."""
    cfg = get_cfg()
    add_twostage_config(cfg)
    return cfg


def all_keys(cfg: CN, prefix: str = "") -> list[str]:
    """Dotted names of every leaf of `cfg`."""
    names: list[str] = []
    for key, value in cfg.items():
        name = f"{prefix}{key}"
        names += all_keys(value, f"{name}.") if isinstance(value, CN) else [name]
    return names


def get_key(cfg: CN, key: str) -> object:
    """Value of a dotted key; KeyError where it does not exist."""
    node: object = cfg
    for part in key.split("."):
        if not isinstance(node, CN) or part not in node:
            raise KeyError(key)
        node = node[part]
    return node


def load_config(config_file: str = "", opts: Sequence[str] = ()) -> CN:
    """Defaults, then `config_file` (yaml, `_BASE_` allowed), then `KEY VALUE` pairs; checked, not frozen.

    Raises:
        UserError: file missing or not yaml, unknown key, wrong type, a value that is not allowed.
    """
    cfg = default_config()
    if config_file:
        _merge_file(cfg, config_file)
    _merge_opts(cfg, list(opts))
    validate_config(cfg)
    return cfg


def _merge_file(cfg: CN, config_file: str) -> None:
    if not Path(config_file).is_file():
        folder = Path(config_file).parent
        near = near_names(Path(config_file).name, [p.name for p in folder.glob("*.yaml")]) if folder.is_dir() else ""
        raise UserError(f"config file '{config_file}' does not exist{near}; the published ones are under configs/")
    try:
        tree = CN(CN.load_yaml_with_base(config_file))
    except (yaml.YAMLError, OSError, AttributeError, KeyError) as error:
        raise UserError(f"config file '{config_file}' can't be read: {' '.join(str(error).split())}") from error
    for key in all_keys(tree):
        _check_known(cfg, key, f"config file '{config_file}'")
    try:
        cfg.merge_from_other_cfg(tree)
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(f"config file '{config_file}': {' '.join(str(error).split())}") from error


def _check_known(cfg: CN, key: str, where: str) -> None:
    try:
        get_key(cfg, key)
    except KeyError:
        raise UserError(f"{where}: unknown config key '{key}'{near_names(key, all_keys(cfg))}") from None


def _merge_opts(cfg: CN, opts: list[str]) -> None:
    if len(opts) % 2:
        raise UserError(f"overrides must be pairs 'KEY VALUE'; '{opts[-1]}' has no value")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        _check_known(cfg, key, "command line")
        old = get_key(cfg, key)
        if isinstance(old, CN):
            raise UserError(f"command line: '{key}' is a group, give one of its keys: {', '.join(all_keys(old)[:8])}")
        try:
            cfg.merge_from_list([key, _as_type_of(old, value)])
        except (ValueError, AssertionError) as error:
            raise UserError(
                f"command line: {key} = {value!r} does not fit; the default {old!r} is of type {type(old).__name__}"
            ) from error


def _as_type_of(old: object, value: str) -> object:
    """`value` as a float where the default is one, so that `SOLVER.BASE_LR 1` works; otherwise unchanged."""
    if isinstance(old, float) and isinstance(value, str):
        try:
            return float(ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError):
            return value
    return value


def validate_config(cfg: CN) -> None:
    """Check values that no type check sees. Raises UserError naming key, value and what is allowed."""
    for key, allowed in _CHOICES.items():
        value = get_key(cfg, key)
        if value not in allowed:
            near = near_names(str(value), allowed)
            raise UserError(f"{key} is {value!r}; allowed: {', '.join(repr(a) for a in allowed)}{near}")
    for key in _POSITIVE:
        value = get_key(cfg, key)
        if not isinstance(value, int | float) or value <= 0:
            raise UserError(f"{key} is {value!r}; it must be greater than 0")
    for key in _FRACTION:
        value = get_key(cfg, key)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise UserError(f"{key} is {value!r}; it must lie between 0 and 1")
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        value = get_key(cfg, key)
        if not isinstance(value, list | tuple) or len(value) != 3:
            raise UserError(f"{key} is {value!r}; it must hold three numbers (R, G, B on 0..255)")
    _validate_san(cfg)


def _validate_san(cfg: CN) -> None:
    san = cfg.MODEL.SAN
    if san.WIDTH % san.HEADS:
        raise UserError(f"MODEL.SAN.WIDTH {san.WIDTH} must be a multiple of MODEL.SAN.HEADS {san.HEADS}")
    if san.SIZE_DIVISIBILITY % san.PATCH_SIZE:
        raise UserError(
            f"MODEL.SAN.SIZE_DIVISIBILITY {san.SIZE_DIVISIBILITY} must be a multiple of "
            f"MODEL.SAN.PATCH_SIZE {san.PATCH_SIZE}"
        )
    for entry in san.FUSION_MAP:
        source, arrow, target = str(entry).partition("->")
        if not arrow or not source.strip().isdigit() or not target.strip().isdigit():
            raise UserError(f"MODEL.SAN.FUSION_MAP has {entry!r}; entries look like '3->1' (CLIP block -> side block)")
        if int(source) > san.SPLIT_BLOCK or int(target) >= san.DEPTH:
            raise UserError(
                f"MODEL.SAN.FUSION_MAP has {entry!r}; CLIP blocks go up to MODEL.SAN.SPLIT_BLOCK {san.SPLIT_BLOCK}, "
                f"side blocks to {san.DEPTH - 1}"
            )
    for block in san.AUXILIARY_BLOCKS:
        if not 0 < block < san.DEPTH:
            raise UserError(f"MODEL.SAN.AUXILIARY_BLOCKS has {block}; allowed: 1 to {san.DEPTH - 1}")


def resolve_device(cfg: CN) -> str:
    """`MODEL.DEVICE` with "auto" replaced by what this machine has."""
    import torch

    if cfg.MODEL.DEVICE == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r} but torch sees no GPU; use 'cpu' or 'auto'")
    return str(cfg.MODEL.DEVICE)


def datasets_root() -> Path:
    """Folder that holds all datasets: `$DETECTRON2_DATASETS`, default `datasets`."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()

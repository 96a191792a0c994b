"""Optimizer, schedule, clipping, averaging, checkpoints."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.ADAMW_BETAS = (0.9, 0.999)
    cfg.SOLVER.ADAMW_EPS = 1e-8
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
    # Blocks of transformers, ConvNeXts and decoders compute their activations again in the backward pass instead of keeping
    # them: less memory, a longer step, the same gradients.
    cfg.SOLVER.ACTIVATION_CHECKPOINTING = False
    # Exponential moving average of the trainable weights; used for evaluation, saved beside the weights.
    cfg.SOLVER.EMA = CN()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.999
    # Periodic checkpoints kept, the newest ones (0: all); model_final.pth is kept besides.
    cfg.SOLVER.CHECKPOINTS_KEPT = 3


def _check(cfg: CN) -> None:
    if not cfg.OUTPUT_DIR.strip():
        raise UserError("OUTPUT_DIR is empty; give a folder, like OUTPUT_DIR output/run")


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "SOLVER.OPTIMIZER": ("ADAMW", "SGD"),
            "SOLVER.AMP.PRECISION": ("float16", "bfloat16"),
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
            "SOLVER.LR_SCHEDULER_NAME": ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR"),
        },
        positive=("SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD"),
        fraction=("SOLVER.EMA.DECAY",),
        paths=("OUTPUT_DIR",),
        check=_check,
    ),
)

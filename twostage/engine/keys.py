"""Optimizer, schedule, clipping, averaging, checkpoints."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError, shown
from twostage.keys import KeyGroup

# numpy's is 2^32 - 1, to which the number of a process is added.
_LARGEST_SEED = 2**31


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
    betas = tuple(cfg.SOLVER.ADAMW_BETAS)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"SOLVER.ADAMW_BETAS is {shown(betas)}; give two numbers, 0 or more and below 1")
    if cfg.SOLVER.NESTEROV and not cfg.SOLVER.MOMENTUM:
        raise UserError("SOLVER.NESTEROV is True, which needs SOLVER.MOMENTUM above 0")
    if cfg.SEED > _LARGEST_SEED:
        raise UserError(f"SEED is {cfg.SEED}; it must be at most {_LARGEST_SEED}, or negative for one that is drawn")
    _check_without_effect(cfg)


def _check_without_effect(cfg: CN) -> None:
    """UserError where a key of Detectron2's that nothing here reads asks for something."""
    for key, asked in (("TEST.AUG", cfg.TEST.AUG.ENABLED), ("TEST.PRECISE_BN", cfg.TEST.PRECISE_BN.ENABLED)):
        if asked:
            raise UserError(f"{key}.ENABLED is True, which has no effect here; leave it False")
    if cfg.TEST.EXPECTED_RESULTS:
        raise UserError("TEST.EXPECTED_RESULTS has no effect here; leave it empty and compare the results file")


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "SOLVER.OPTIMIZER": ("ADAMW", "SGD"),
            "SOLVER.AMP.PRECISION": ("float16", "bfloat16"),
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
            "SOLVER.WARMUP_METHOD": ("linear", "constant"),
            "SOLVER.LR_SCHEDULER_NAME": ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR"),
        },
        positive=("SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD"),
        not_negative=(
            "SOLVER.ADAMW_EPS",
            "SOLVER.BACKBONE_MULTIPLIER",
            "SOLVER.CHECKPOINTS_KEPT",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
            "SOLVER.CLIP_MULTIPLIER",
            "SOLVER.GAMMA",
            "SOLVER.POLY_LR_POWER",
            "SOLVER.WARMUP_FACTOR",
            "SOLVER.WARMUP_ITERS",
            "SOLVER.WEIGHT_DECAY",
            "SOLVER.WEIGHT_DECAY_EMBED",
            "SOLVER.WEIGHT_DECAY_NORM",
            "TEST.EVAL_PERIOD",
        ),
        fraction=("SOLVER.EMA.DECAY", "SOLVER.MOMENTUM", "SOLVER.POLY_LR_CONSTANT_ENDING"),
        paths=("OUTPUT_DIR",),
        check=_check,
    ),
)

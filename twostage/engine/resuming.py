"""What `--resume` may change of the config that a run began with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from twostage.errors import UserError, shown

_SYSTEM = "MODEL.META_ARCHITECTURE"
# Keys of SOLVER that hold from the step on at which the run goes on. The others are in the checkpoint, with the optimizer and
# the schedule.
_FREE = (
    "MAX_ITER",
    "IMS_PER_BATCH",
    "CHECKPOINT_PERIOD",
    "CHECKPOINTS_KEPT",
    "CLIP_GRADIENTS",
    "AMP",
    "EMA",
    "ACTIVATION_CHECKPOINTING",
    "REFERENCE_WORLD_SIZE",
)
# Keys outside of SOLVER that change nothing of what is learnt.
_ELSEWHERE = (
    "OUTPUT_DIR",
    "VERSION",
    "VIS_PERIOD",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "DATALOADER.NUM_WORKERS",
    "DATASETS.TEST",
)


def check_same_run(cfg: CfgNode) -> list[str]:
    """Compare `cfg` with the config.yaml of the run in its OUTPUT_DIR, which is to go on from its last checkpoint.

    Returns:
        In words, the other values that change what is learnt from then on; nothing where there is no run.

    Raises:
        UserError: another system, or a value that would have no effect, since the checkpoint holds the run's own.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if not (folder / "last_checkpoint").is_file():
        return []
    try:
        before = _flat(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return []  # not of a run, or of other code
    now = _flat(yaml.safe_load(cfg.dump()))
    changed = [key for key in now if key in before and before[key] != now[key]]
    if _SYSTEM in changed:
        raise UserError(
            f"the run in '{folder}' is of {before[_SYSTEM]}, the config of {now[_SYSTEM]}; resume with its own config, or "
            "give another OUTPUT_DIR"
        )
    for key in changed:
        if key == "SEED" or (key.startswith("SOLVER.") and key.split(".")[1] not in _FREE):
            raise UserError(
                f"{key} is {shown(now[key])}, but the run in '{folder}' began with {shown(before[key])}, which its "
                "checkpoints hold; resume with that, or begin another run (another OUTPUT_DIR, and MODEL.WEIGHTS one of these "
                "checkpoints)"
            )
    told = [key for key in changed if not key.startswith(("SOLVER.", "TEST.")) and key not in _ELSEWHERE]
    return [f"{key} {shown(now[key])} (was {shown(before[key])})" for key in told]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"SOLVER.MAX_ITER": 12, ...}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found

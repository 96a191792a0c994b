"""What every run does first: a writable output folder, loggers, the config on disk, seeds."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from twostage.files import atomic_path, check_writable


def set_aside_earlier_run(folder: str | Path) -> None:
    """A new run in an old folder begins its own metrics.json, and `--resume` takes its checkpoints, not those of before: the
    old metrics become metrics.previous.json, and last_checkpoint last_checkpoint.previous."""
    for name, aside in (("metrics.json", "metrics.previous.json"), ("last_checkpoint", "last_checkpoint.previous")):
        file = Path(folder) / name
        if file.exists():
            file.replace(file.with_name(aside))


def set_up(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Detectron2's `default_setup` (loggers, `config.yaml`, seeds) after a check of OUTPUT_DIR, and our own logger.

    An evaluation in the folder of a training run leaves that run's config.yaml, which `--resume` compares with.

    Raises:
        UserError: OUTPUT_DIR is not writable.
    """
    kept = None
    config = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if comm.is_main_process():
        check_writable(cfg.OUTPUT_DIR)
        if getattr(args, "eval_only", True) and (config.parent / "last_checkpoint").exists() and config.is_file():
            kept = config.read_bytes()
    default_setup(cfg, args)
    if kept is not None:
        with atomic_path(config) as temporary:
            temporary.write_bytes(kept)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="twostage")

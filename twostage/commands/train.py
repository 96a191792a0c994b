"""What `tools/train_net.py` does: train or evaluate what a config describes, in one process or several."""

from __future__ import annotations

import argparse
import contextlib
import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from twostage.checkpoint.checkpointer import Checkpointer
from twostage.checkpoint.untrained import warn_if_untrained
from twostage.commands.launch import launch
from twostage.commands.setup import set_aside_earlier_run, set_up
from twostage.config import load_config
from twostage.data.loaders import check_dataset
from twostage.data.views import dataset_view, evaluated_view
from twostage.engine.ema import ModelEma
from twostage.engine.results_table import evaluation_table
from twostage.engine.resuming import check_same_run
from twostage.engine.trainer import Trainer
from twostage.errors import UserError
from twostage.files import check_writable
from twostage.machine import settle_machine
from twostage.weights.find import check_named

logger = logging.getLogger(__name__)


def run_from_arguments(args: argparse.Namespace) -> None:
    """Read and check the config, then train or evaluate in as many processes as asked for.

    Raises:
        UserError: anything wrong in config, data, checkpoint or output folder.
    """
    skip = (
        [text for key in ("DATALOADER", "TEST") for text in (f"{key}.SKIP_BROKEN", "True")] if args.skip_broken else []
    )
    cfg = load_config(args.config_file, [*skip, *args.opts])
    settle_machine(cfg)
    if not args.eval_only and cfg.MODEL.PRECISION != "float32":
        raise UserError(
            f"MODEL.PRECISION is {cfg.MODEL.PRECISION!r}, which is of inference; training has SOLVER.AMP.ENABLED and "
            "SOLVER.AMP.PRECISION"
        )
    # A run that goes on has a checkpoint of its own.
    if args.eval_only or not args.resume:
        check_named(cfg.MODEL.WEIGHTS)
    cfg.freeze()
    check_writable(cfg.OUTPUT_DIR)
    for name in () if args.eval_only else cfg.DATASETS.TRAIN:
        check_dataset(dataset_view(cfg, name))
    for name in cfg.DATASETS.TEST:
        check_dataset(evaluated_view(cfg, name), panoptic=cfg.TEST.PANOPTIC)
    launch(
        run,
        processes=args.num_gpus,
        device=cfg.MODEL.DEVICE,
        machines=args.num_machines,
        machine_rank=args.machine_rank,
        address=args.dist_url,
        args=(cfg, args),
    )


def run(cfg: CfgNode, args: argparse.Namespace, trainer: type[Trainer] = Trainer) -> dict[str, Any] | None:
    """Train (and evaluate at the end) or, with `args.eval_only`, evaluate MODEL.WEIGHTS; in this process.

    Returns:
        The results as `Trainer.test` gives them, on rank 0.
    """
    # Before the config of this run is written over that of the earlier one.
    changes = check_same_run(cfg) if args.resume and not args.eval_only and comm.is_main_process() else []
    set_up(cfg, args)
    if changes:
        logger.warning("Resumed with another config than the run began with: %s", ", ".join(changes))
    if args.eval_only:
        results: dict[str, Any] | None = evaluate(cfg, trainer, resume=args.resume)
    else:
        if not args.resume and comm.is_main_process():
            set_aside_earlier_run(cfg.OUTPUT_DIR)
        training = trainer(cfg)
        training.resume_or_load(resume=args.resume)
        results = training.train()
    if comm.is_main_process() and results:
        print(evaluation_table(cfg.DATASETS.TEST, results), flush=True)
    return results


def evaluate(cfg: CfgNode, trainer: type[Trainer] = Trainer, *, resume: bool = False) -> dict[str, Any]:
    """Results of MODEL.WEIGHTS; with SOLVER.EMA.ENABLED those of the file's averaged weights, where it has them.

    With `resume` an evaluation of the same weights that was stopped goes on.
    """
    model = trainer.build_model(cfg)
    warn_if_untrained(model, cfg)
    if not cfg.SOLVER.EMA.ENABLED:
        Checkpointer(model).load(cfg.MODEL.WEIGHTS)
        return trainer.test(cfg, model, resume=resume)
    ema = ModelEma(model, decay=cfg.SOLVER.EMA.DECAY)
    Checkpointer(model, ema=ema).load(cfg.MODEL.WEIGHTS)
    if not ema.loaded:
        logger.warning("'%s' holds no averaged weights (EMA), its plain weights are evaluated", cfg.MODEL.WEIGHTS)
    with ema.applied() if ema.loaded else contextlib.nullcontext():
        return trainer.test(cfg, model, resume=resume)

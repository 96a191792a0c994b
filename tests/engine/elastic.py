"""`elastic.py FOLDER` under torchrun: the tiny training, in which a worker of the first attempt is killed (FOLDER "killed").

Writes `result.json`: the attempt that came to the end, the iteration it began with, and sums of weights.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import twostage  # noqa: F401  isort: skip  (first: finds Detectron2)
from detectron2.utils import comm
from tiny import TinyTrainer, build_trainer, tiny_config

from twostage.commands.launch import launch
from twostage.commands.setup import set_up


class Killed(TinyTrainer):
    """Whose second process dies in the third iteration of the first attempt."""

    def run_step(self) -> None:
        super().run_step()
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if first and self.iter == 2 and comm.get_rank() == 1 and Path(self.cfg.OUTPUT_DIR).name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)


def _main(folder: str) -> None:
    cfg = tiny_config(Path(folder).parent / "data", Path(folder))
    set_up(cfg, argparse.Namespace(config_file="", eval_only=False))
    trainer = build_trainer(cfg, Killed)
    trainer.resume_or_load(resume=True)
    began = trainer.start_iter
    trainer.train()
    weights = {name: value.double().sum().item() for name, value in trainer.module.state_dict().items()}
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if comm.is_main_process():
        (Path(folder) / "result.json").write_text(json.dumps({"attempt": attempt, "began": began, "weights": weights}))


if __name__ == "__main__":
    launch(_main, processes=2, device="cpu", args=(sys.argv[1],))

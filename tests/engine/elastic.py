"""`elastic.py FOLDER` under torchrun: the tiny training with `--resume`, whose second worker is killed once, without warning.

Writes `result.json`: the attempt that came to the end, the iteration it began with, and the sums of weights.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import twostage  # noqa: F401  isort: skip  (first: finds Detectron2)
import torch
from detectron2.utils import comm
from tiny import TinyTrainer, tiny_config

from twostage.commands.arguments.learning import train_parser
from twostage.commands.launch import launch
from twostage.commands.train import run

ATTEMPT = int(os.environ["TORCHELASTIC_RESTART_COUNT"])


class KilledOnce(TinyTrainer):
    """Dies in its second process, in the iteration behind the first checkpoint of the first attempt."""

    def __init__(self, cfg: Any) -> None:
        torch.manual_seed(int(cfg.SEED))
        super().__init__(cfg)

    def run_step(self) -> None:
        super().run_step()
        if ATTEMPT == 0 and self.iter == 2 and comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def train(self) -> Any:
        results = super().train()
        weights = {name: value.double().sum().item() for name, value in self.module.state_dict().items()}
        if comm.is_main_process():
            found = {"attempt": ATTEMPT, "began": self.start_iter, "ended": self.iter, "weights": weights}
            Path(self.cfg.OUTPUT_DIR, "result.json").write_text(json.dumps(found))
        return results


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    cfg = tiny_config(folder.parent / "data", folder)
    args = train_parser().parse_args(["--resume"])
    launch(run, processes=2, device="cpu", args=(cfg, args, KilledOnce))

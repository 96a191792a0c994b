"""Hooks and writers of our own beside Detectron2's."""

from __future__ import annotations

import logging
import sys
from typing import Any

from detectron2.engine import HookBase
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

LOGGERS = ("detectron2", "fvcore", "twostage")


def on_terminal() -> bool:
    """Whether somebody watches: progress bars go to a terminal, periodic log lines everywhere."""
    return sys.stderr.isatty()


class ProgressBar(HookBase):
    """A tqdm bar over the iterations with time left, loss and learning rate; log lines are printed above it."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._redirect: Any = None

    def before_train(self) -> None:
        self._redirect = logging_redirect_tqdm([logging.getLogger(name) for name in LOGGERS])
        self._redirect.__enter__()
        self._bar = tqdm(
            desc="training", unit="it", initial=self.trainer.start_iter, total=self.trainer.max_iter, dynamic_ncols=True
        )

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        # Losses of auxiliary outputs, named "..._0" and so on, would leave no room for the bar.
        names = [name for name in latest if ("loss" in name and not name[-1].isdigit()) or name == "lr"]
        shown = {name: f"{latest[name][0]:.4g}" for name in names}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        if self._bar is None:
            return
        self._bar.close()
        self._redirect.__exit__(None, None, None)

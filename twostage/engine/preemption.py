"""SIGTERM and Ctrl-C (SIGINT) during training: a scheduler wants the machine back and waits a little, or a person does.

The step that runs is finished, a checkpoint is saved, and the process leaves with exit code 143, as shells report for
SIGTERM, or as Ctrl-C ends any program; `--resume` goes on from there. Ctrl-C once more ends it at once.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from twostage.errors import EXIT_TERMINATED


class Preempted(SystemExit):
    """The process is asked to leave; everything on the way out cleans up."""

    def __init__(self) -> None:
        super().__init__(EXIT_TERMINATED)

    def __str__(self) -> str:
        return "asked to leave (SIGTERM)"


class Interrupted(KeyboardInterrupt):
    """The same by Ctrl-C."""

    def __str__(self) -> str:
        return "interrupted (SIGINT)"


# Later ones go before earlier ones where processes are asked by both.
_EXCEPTIONS = {signal.SIGTERM: Preempted, signal.SIGINT: Interrupted}


class PreemptionHook(HookBase):
    """Raises `Preempted` or `Interrupted` between two steps, in all processes after the same one; outside of steps at once.

    Attributes:
        last_iter: the last iteration whose step is finished, None before the first.
    """

    def __init__(self) -> None:
        self.last_iter: int | None = None
        self._in_step = False
        # Place in `_EXCEPTIONS`, from 1; 0: not asked.
        self._asked = 0
        self._before: dict[signal.Signals, Any] = {}

    def before_train(self) -> None:
        # Python handles signals in the main thread only; a trainer in another one stays as it is.
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _EXCEPTIONS:
            # Programs in the background are started with SIGINT ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._ask)

    def before_step(self) -> None:
        self._in_step = True

    def after_step(self) -> None:
        self._in_step = False
        self.last_iter = self.trainer.iter
        self._leave(self._anybody_asked())

    def restore(self) -> None:
        """Hand the signals back to who had them."""
        while self._before:
            signal.signal(*self._before.popitem())

    after_train = restore

    def _ask(self, number: int, _frame: Any) -> None:
        if self._asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # asked again while the checkpoint is being saved
        self._asked = list(_EXCEPTIONS).index(signal.Signals(number)) + 1
        if not self._in_step:
            self._leave(self._asked)

    @staticmethod
    def _leave(asked: int) -> None:
        if asked:
            raise list(_EXCEPTIONS.values())[asked - 1]

    def _anybody_asked(self) -> int:
        if comm.get_world_size() == 1:
            return self._asked
        asked = torch.tensor(self._asked)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=comm._get_global_gloo_group())
        return int(asked)

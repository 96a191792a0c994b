"""SIGTERM during training: a scheduler wants the machine back and waits a little before it takes it.

The step that runs is finished, a checkpoint is saved, and the process leaves with exit code 143, as shells report for
SIGTERM; `--resume` goes on from there.
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


class PreemptionHook(HookBase):
    """Raises `Preempted` between two steps, in all processes after the same one, and at once outside of steps.

    Attributes:
        last_iter: the last iteration whose step is finished, None before the first.
    """

    def __init__(self) -> None:
        self.last_iter: int | None = None
        self._in_step = False
        self._asked = False
        self._before: Any = None

    def before_train(self) -> None:
        # Python handles signals in the main thread only; a trainer in another one stays as it is.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def before_step(self) -> None:
        self._in_step = True

    def after_step(self) -> None:
        self._in_step = False
        self.last_iter = self.trainer.iter
        if self._anybody_asked():
            raise Preempted

    def restore(self) -> None:
        """Hand the signal back to who had it."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    after_train = restore

    def _ask(self, _number: int, _frame: Any) -> None:
        if self._asked:
            return  # asked again while the checkpoint is being saved
        self._asked = True
        if not self._in_step:
            raise Preempted

    def _anybody_asked(self) -> bool:
        if comm.get_world_size() == 1:
            return self._asked
        asked = torch.tensor(int(self._asked))
        dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=comm._get_global_gloo_group())
        return bool(asked)

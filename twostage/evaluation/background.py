"""Counting in the background: an evaluator works on one picture while the model looks at the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from detectron2.evaluation import DatasetEvaluator

from twostage.evaluation.semantic import SemanticSegmentationEvaluator

# Pictures whose predictions wait to be counted; each holds its label map, and what else a measure reads.
_WAITING = 2


class BackgroundEvaluator(DatasetEvaluator):
    """Hands everything on to one thread, in order, so that the figures are those of `evaluator` itself.

    What a call raises is raised by one of the next calls, by `evaluate` at the latest.
    """

    def __init__(self, evaluator: SemanticSegmentationEvaluator, pool: ThreadPoolExecutor) -> None:
        self._evaluator = evaluator
        self._pool = pool
        self._waiting: deque[Future[None]] = deque()

    def reset(self) -> None:
        """See `SemanticSegmentationEvaluator.reset`."""
        self._finish_until(0)
        self._evaluator.reset()

    def process(self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]) -> None:
        """See `SemanticSegmentationEvaluator.process`; waits while too many predictions do."""
        self._later(self._evaluator.process, inputs, outputs)

    def skip(self, record: Mapping[str, Any], reason: str) -> None:
        """See `SemanticSegmentationEvaluator.skip`."""
        self._later(self._evaluator.skip, record, reason)

    def evaluate(self) -> Any:
        """See `SemanticSegmentationEvaluator.evaluate`."""
        self._finish_until(0)
        return self._evaluator.evaluate()

    def _later(self, call: Callable[..., None], *args: Any) -> None:
        self._finish_until(_WAITING - 1)
        self._waiting.append(self._pool.submit(call, *args))

    def _finish_until(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.popleft().result()


@contextmanager
def in_background(evaluator: SemanticSegmentationEvaluator) -> Iterator[BackgroundEvaluator]:
    """`evaluator` in a thread of its own; at the end, also by an error or Ctrl-C, what was predicted has been counted."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="evaluator") as pool:
        yield BackgroundEvaluator(evaluator, pool)

"""Counting in the background: in order, bounded, errors come out, nothing that was predicted is lost."""

from __future__ import annotations

import threading

import pytest

from twostage.errors import UserError
from twostage.evaluation.background import in_background

SECONDS = 20


class Slow:
    """An evaluator that counts a picture only once it may."""

    def __init__(self, *, may: int = 0) -> None:
        self.counted: list[str] = []
        self.threads: set[int] = set()
        self.may = threading.Semaphore(may)

    def reset(self) -> None:
        self.counted.clear()

    def process(self, inputs, outputs) -> None:
        assert self.may.acquire(timeout=SECONDS)
        self.threads.add(threading.get_ident())
        if outputs == "broken":
            raise UserError("a broken label")
        self.counted.append(inputs)

    def skip(self, record, reason) -> None:
        self.counted.append(f"{record} skipped: {reason}")

    def evaluate(self) -> list[str]:
        return list(self.counted)


def test_the_model_does_not_wait_for_the_count():
    slow = Slow()
    with in_background(slow) as evaluator:
        evaluator.process("a", "")
        evaluator.process("b", "")
        assert slow.counted == []
        slow.may.release(2)
        assert evaluator.evaluate() == ["a", "b"]
    assert slow.threads and threading.get_ident() not in slow.threads


def test_only_two_predictions_wait():
    slow, called = Slow(), []

    def model() -> None:
        with in_background(slow) as evaluator:
            for name in "abcd":
                evaluator.process(name, "")
                called.append(name)

    runner = threading.Thread(target=model)
    runner.start()
    for allowed in (2, 3, 4):
        deadline = threading.Event()
        while len(called) < allowed and not deadline.wait(0.01):
            assert runner.is_alive()
        # Time for a call too many.
        deadline.wait(0.05)
        assert len(called) == allowed
        slow.may.release()
    slow.may.release()
    runner.join(SECONDS)
    assert slow.counted == list("abcd")


def test_skipped_pictures_keep_their_place_and_a_reset_forgets_all():
    slow = Slow(may=9)
    with in_background(slow) as evaluator:
        evaluator.process("old", "")
        evaluator.reset()
        evaluator.process("a", "")
        evaluator.skip("b", "unreadable")
        evaluator.process("c", "")
        assert evaluator.evaluate() == ["a", "b skipped: unreadable", "c"]


def test_errors_come_out_at_the_latest_at_the_end():
    slow = Slow(may=9)
    with in_background(slow) as evaluator:
        evaluator.process("a", "broken")
        with pytest.raises(UserError, match="a broken label"):
            evaluator.evaluate()


def test_errors_stop_a_long_evaluation():
    slow, given = Slow(may=99), []
    with in_background(slow) as evaluator, pytest.raises(UserError, match="a broken label"):
        for name in "abcdefgh":
            evaluator.process(name, "broken")
            given.append(name)
    assert given == ["a", "b"]


def test_what_was_predicted_is_counted_when_the_model_is_stopped():
    slow = Slow(may=9)
    with pytest.raises(KeyboardInterrupt), in_background(slow) as evaluator:
        evaluator.process("a", "")
        evaluator.process("b", "")
        raise KeyboardInterrupt
    assert slow.counted == ["a", "b"]

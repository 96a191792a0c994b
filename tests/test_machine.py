"""What is asked of the operating system, also where it answers in another way."""

from __future__ import annotations

import os
import sys

import pytest

from twostage.config import load_config
from twostage.errors import UserError
from twostage.machine import available_cores, peak_resident_memory, settle_machine


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_peak_memory_is_in_bytes() -> None:
    held = bytearray(os.urandom(2**20)) * 64
    assert len(held) < peak_resident_memory() < 2**40


@pytest.mark.skipif(sys.platform != "linux", reason="starts from Linux's answer")
def test_peak_memory_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    as_on_macos = peak_resident_memory()
    monkeypatch.undo()
    assert as_on_macos * 2**10 <= peak_resident_memory() < (as_on_macos + 2**16) * 2**10
    monkeypatch.setattr(sys, "platform", "win32")
    assert peak_resident_memory() == 0


def test_cores_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cores() == os.cpu_count()


@pytest.mark.parametrize("device", ["nosuch", "cuda:x", "cuda:99", ""])
def test_a_device_that_there_is_not(device: str) -> None:
    with pytest.raises(UserError, match=r"^MODEL\.DEVICE is "):
        settle_machine(load_config("", ["MODEL.DEVICE", device]))

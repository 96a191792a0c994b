"""Processes that are started here end together, whatever ends one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from twostage.commands.launch import launch
from twostage.errors import run_cli

def work(folder, ending):
    rank = os.environ["RANK"]
    Path(folder, f"{rank}.pid").write_text(str(os.getpid()))
    if ending == "child" and rank == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

if __name__ == "__main__":
    run_cli(lambda: launch(work, processes=2, device="cpu", args=tuple(sys.argv[1:])))
"""


def start(tmp_path: Path, ending: str) -> subprocess.Popen[str]:
    (tmp_path / "script.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path), ending],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # As a program in the background of a script.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )


def children(tmp_path: Path) -> list[int]:
    """Process numbers of both, once they have begun."""
    files = [tmp_path / f"{rank}.pid" for rank in range(2)]
    for _ in range(600):
        if all(file.exists() and file.read_text() for file in files):
            return [int(file.read_text()) for file in files]
        time.sleep(0.1)
    pytest.fail("the processes did not begin")


def is_running(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_process_that_is_killed_is_told_in_a_line(tmp_path: Path) -> None:
    """As the system does where memory runs out."""
    process = start(tmp_path, "child")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in errors
    assert (
        "error: process 1 was ended by SIGKILL, and the others with it; most often the machine was out of memory"
        in errors
    )
    assert not any(is_running(number) for number in children(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's end")
def test_nobody_goes_on_without_the_first_process(tmp_path: Path) -> None:
    """Two runs, the orphans and the one that is resumed, would write into one folder."""
    process = start(tmp_path, "parent")
    numbers = children(tmp_path)
    process.kill()
    process.wait()
    for _ in range(200):
        if not any(is_running(number) for number in numbers):
            return
        time.sleep(0.1)
    pytest.fail(f"{numbers} go on")

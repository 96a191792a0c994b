"""What is imported, and so has to be waited for, before anything is computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from twostage.commands.main import COMMANDS

ROOT = Path(__file__).parents[2]
# Each of them takes longer than all of the standard library that a tool needs.
HEAVY = {"torch", "torchvision", "timm", "open_clip", "detectron2", "numpy", "cv2", "scipy", "skimage", "matplotlib"}

HELP = """
import runpy, sys
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    code = end.code
print("modules:", code, *sys.modules)
"""


COMMAND = """
import runpy, sys, time
try:
    runpy.run_module("twostage", run_name="__main__")
except SystemExit as end:
    code = end.code
print("modules:", code, time.process_time(), *sys.modules)
"""
# Processor time in seconds that `twostage --help` may take; it takes about 0.12 on a machine that needs 0.02 for Python alone.
HELP_SECONDS = 0.3


def modules(code: str, *arguments: str | Path) -> tuple[str, set[str]]:
    """What `code` prints before its last line, and the words of that."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    text, _, words = done.stdout.rpartition("modules: ")
    return text, set(words.split())


def test_import_twostage() -> None:
    _, words = modules("import sys, twostage; print('modules:', *sys.modules)")
    assert "twostage" in words and not words & HEAVY


@pytest.mark.parametrize("tool", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_help(tool: str) -> None:
    text, words = modules(HELP, ROOT / "tools" / tool, "--help")
    assert "0" in words and "usage:" in text and not words & HEAVY


def test_help_of_the_command_answers_at_once() -> None:
    """Within its processor time, of which the best of three is what the command itself needs."""
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "--help"], capture_output=True, text=True, check=True, timeout=120
        )
        text, _, words = done.stdout.rpartition("modules: ")
        code, spent, *imported = words.split()
        assert code == "0" and "usage: twostage" in text and not set(imported) & HEAVY
        seconds.append(float(spent))
    assert min(seconds) < HELP_SECONDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command: str) -> None:
    code = f"import sys; sys.argv[1:] = {[command, '--help']!r}" + COMMAND
    text, words = modules(code)
    assert "0" in words and f"usage: twostage {command}" in text and not words & HEAVY

"""The log file: what finds no room on the disk is left out, also at the very end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_LOGS = (
    "import logging\n"
    "from detectron2.utils.logger import setup_logger\n"
    "logging.raiseExceptions = False\n"
    "setup_logger('/dev/full.log', name='twostage').info('a line')\n"
)


@pytest.mark.own_detectron2
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_no_traceback_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    code = _LOGS.replace("/dev/full.log", str(tmp_path / "log.txt"))
    done = subprocess.run(
        [sys.executable, "-c", f"import twostage\n{code}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Exception" not in done.stderr and "Traceback" not in done.stderr, done.stderr

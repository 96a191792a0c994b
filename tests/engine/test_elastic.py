"""A worker is killed, torchrun starts all anew, and the run goes on from the checkpoint to the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

SCRIPT = Path(__file__).with_name("elastic.py")
# Else gloo finds the addresses of the first attempt in the store, and all wait for processes that are gone.
STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's agent needs signals of POSIX")
def test_killed_worker(tmp_path: Path) -> None:
    tiny.write_dataset(tmp_path / "data")

    def run(name: str) -> dict[str, Any]:
        root = SCRIPT.parents[2]
        paths = os.pathsep.join([str(root), str(SCRIPT.parent)])
        environment = {**os.environ, **STORE, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *TORCHRUN, str(SCRIPT), str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((tmp_path / name / "result.json").read_text())

    killed, whole = run("killed"), run("whole")
    assert (killed["attempt"], killed["began"]) == (1, 2) and (whole["attempt"], whole["began"]) == (0, 0)
    assert killed["weights"] == whole["weights"]

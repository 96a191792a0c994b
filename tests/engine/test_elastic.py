"""A worker is killed, torchrun starts all anew, and the run goes on from its checkpoint to an undisturbed run's weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

SCRIPT = Path(__file__).with_name("elastic.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1")
# As docs/deploy.md has it: without it gloo finds the addresses of the first attempt, and all wait for processes that are gone.
STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills a process by POSIX signals")
def test_killed_worker(tmp_path: Path) -> None:
    tiny.write_dataset(tmp_path / "data")
    paths = os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parent)])
    environment = {**os.environ, **STORE, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *TORCHRUN, str(SCRIPT), str(tmp_path / "killed")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "exitcode: -9" in done.stderr, done.stderr[-3000:]
    found = json.loads((tmp_path / "killed" / "result.json").read_text())
    # The checkpoint is of the first two iterations of four.
    assert (found["attempt"], found["began"], found["ended"]) == (1, 2, 4)
    torch.manual_seed(0)
    whole = tiny.build_trainer(tiny.tiny_config(tmp_path / "data", tmp_path / "whole"))
    whole.train()
    sums = {name: value.double().sum().item() for name, value in whole.module.state_dict().items()}
    assert found["weights"] == pytest.approx(sums, abs=1e-5)

"""An evaluation in a process of its own, so that its peak memory is its own and its failure nobody else's."""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from twostage.errors import UserError
from twostage.files import check_writable

logger = logging.getLogger(__name__)

# Switches of `twostage evaluate` that hold for each process.
_SWITCHES = ("resume", "report", "skip_broken")


def evaluate_apart(
    name: str,
    config_file: str,
    folder: Path,
    args: argparse.Namespace,
    *,
    words: Sequence[str] = (),
    opts: Sequence[str],
) -> bool:
    """Whether `twostage evaluate` went well; results go to `folder`, what it says into `evaluate.log` there.

    Args:
        name: as messages call it.
        args: of `twostage evaluate`, whose number of processes and switches it has.
        words: further words of the command line.
        opts: config overrides `[KEY, VALUE, ...]`.

    Raises:
        UserError: the folder can't be written.
    """
    check_writable(folder)
    command = [sys.executable, "-m", "twostage", "evaluate", "--config-file", config_file]
    switches = ["--" + switch.replace("_", "-") for switch in _SWITCHES if getattr(args, switch)]
    command += ["--num-gpus", str(args.num_gpus), *switches, *words]
    print(f"{name} ...", flush=True)
    path = folder / "evaluate.log"
    with path.open("w", encoding="utf-8") as log:
        finished = subprocess.run([*command, *opts, "OUTPUT_DIR", str(folder)], stdout=log, stderr=subprocess.STDOUT)
    if finished.returncode < 0:
        logger.error("%s: killed by %s", name, signal.Signals(-finished.returncode).name)
    elif finished.returncode:
        text = path.read_text(encoding="utf-8", errors="replace")
        logger.error("%s: %s", name, text.strip().rpartition("\n")[2])
    return finished.returncode == 0


def refuse_options(of: str, args: argparse.Namespace, names: Sequence[str]) -> None:
    """UserError where an option of `twostage evaluate` is given that has no meaning for what `of` names."""
    for name in names:
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} has no meaning with {of}; leave it out")

"""An evaluation in a process of its own, so that its peak memory is its own and its failure nobody else's."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


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
        args: whose `num_gpus` and `resume` it has.
        words: further words of the command line.
        opts: config overrides `[KEY, VALUE, ...]`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "twostage", "evaluate", "--config-file", config_file]
    command += ["--num-gpus", str(args.num_gpus), *(["--resume"] if args.resume else []), *words]
    print(f"{name} ...", flush=True)
    path = folder / "evaluate.log"
    with path.open("w", encoding="utf-8") as log:
        finished = subprocess.run([*command, *opts, "OUTPUT_DIR", str(folder)], stdout=log, stderr=subprocess.STDOUT)
    if finished.returncode:
        logger.error("%s: %s", name, path.read_text(encoding="utf-8").strip().rpartition("\n")[2])
    return finished.returncode == 0

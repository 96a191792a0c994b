"""Runs that are killed, asked to leave, out of disk or out of readers, and go on; see `README.md`.

python -m robustness.kills --count 100 --output output/robustness
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

# Imported here, so that the children have them.
from robustness.forked import run_tool
from robustness.jobs import Job, jobs
from twostage.api import load
from twostage.data.registration import register_catalogue
from twostage.errors import EXIT_BROKEN_PIPE, EXIT_TERMINATED, EXIT_USER_ERROR

_WAYS = ("SIGKILL", "SIGTERM", "full disk", "closed stdout")
# Exit codes of a disturbed run; 0: it was done before.
_CODES = {
    "SIGKILL": (0, -signal.SIGKILL),
    # By the signal itself where the tool had not begun.
    "SIGTERM": (0, EXIT_TERMINATED, -signal.SIGTERM),
    "full disk": (0, EXIT_USER_ERROR),
    "closed stdout": (0, EXIT_BROKEN_PIPE),
}


@dataclasses.dataclass(frozen=True)
class Kill:
    """What became of a disturbed run: `stopped` before its end, and `wrong` ("" where nothing is)."""

    job: str
    way: str
    after: float
    code: int
    stopped: bool
    wrong: str


class Runner:
    """One job, disturbed again and again."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job = job
        self._folder = folder
        out = folder / "undisturbed"
        code, self.seconds = self._run(out, folder / "undisturbed.log")
        if code != 0:
            raise RuntimeError(f"{job.name} fails undisturbed: {(folder / 'undisturbed.log').read_text()[-2000:]}")
        self._expected = job.result(out)

    def _run(self, out: Path, log: Path, *, resume: bool = False, **options: Any) -> tuple[int, float]:
        args = [*(self._job.resume if resume else ()), *self._job.args(out)]
        if self._job.tool == "prepare_datasets":
            args = self._job.args(out)
        return run_tool(self._job.tool, args, log=log, env=self._job.env(out), **options)

    def disturb(self, way: str, rng: np.random.Generator) -> Kill:
        """Once; a run whose result is right although it was disturbed counts as well."""
        out, log = self._folder / "out", self._folder / "out.log"
        out.mkdir()
        after = float(rng.uniform(0.02, 1.0) * self.seconds)
        share = float(rng.uniform(0.01, 0.9))
        if way == "full disk":
            _mount(out, self._job.megabytes * share)
        try:
            code = self._stop(way, out, log, after)
            wrong = self._judge_stop(way, code, out, log)
            stopped = code != 0
            if way == "full disk":
                _mount(out, 400, again=True)
            wrong = wrong or self._go_on(out)
        finally:
            if way == "full disk":
                subprocess.run(["umount", "-l", str(out)], check=True)
            shutil.rmtree(out)
        return Kill(self._job.name, way, round(share if way == "full disk" else after, 3), code, stopped, wrong)

    def _stop(self, way: str, out: Path, log: Path, after: float) -> int:
        if way in ("SIGKILL", "SIGTERM"):
            number = signal.Signals[way]
            return self._run(out, log, after=after, disturb=lambda process: os.kill(process, number))[0]
        if way == "closed stdout":
            reader, writer = os.pipe()
            code, _ = self._run(
                out, log, after=after, disturb=lambda _process: os.close(reader), stdout=writer, reader=reader
            )
            with contextlib.suppress(OSError):
                os.close(reader)
            return code
        return self._run(out, log)[0]

    def _judge_stop(self, way: str, code: int, out: Path, log: Path) -> str:
        text = log.read_text(errors="replace")
        if code not in _CODES[way]:
            return f"exit code {code}: {text[-600:]}"
        if "Traceback" in text:
            return f"traceback: {text[-600:]}"
        left = [path.name for path in out.rglob("*.tmp")] if way != "SIGKILL" else []
        if left:
            return f"left behind: {left[0]}"
        if code == EXIT_TERMINATED and self._job.name == "training":
            return _judge_saved(out, text)
        return ""

    def _go_on(self, out: Path) -> str:
        log = self._folder / "again.log"
        code, _ = self._run(out, log, resume=True)
        text = log.read_text(errors="replace")
        if code != 0 or "Traceback" in text:
            return f"does not go on, exit code {code}: {text[-600:]}"
        return "" if self._job.result(out) == self._expected else "another result than undisturbed"


def _judge_saved(out: Path, text: str) -> str:
    """SIGTERM saves what was trained: the newest checkpoint is of the last finished step."""
    steps = text.count("Saving checkpoint")
    named = out / "last_checkpoint"
    if steps and not (named.exists() and (out / named.read_text()).exists()):
        return "no checkpoint is there after SIGTERM"
    return ""


def _mount(folder: Path, megabytes: float, *, again: bool = False) -> None:
    size = max(4096, int(megabytes * 2**20))
    options = f"size={size}" if not again else f"remount,size={size}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def run(*, seed: int, count: int, only: Sequence[str], ways: Sequence[str], seconds: float, report: Path) -> list[Kill]:
    """`count` disturbances over all jobs in turn, fewer where `seconds` run out; each is added to `report` at once."""
    torch.set_num_threads(1)
    _warm_up()
    rng = np.random.default_rng(seed)
    kills: list[Kill] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="robustness-kills-") as folder, report.open("a") as file:
        runners = []
        for job in jobs(Path(folder) / "data"):
            if not only or job.name in only:
                place = Path(folder) / job.name.replace(" ", "-")
                place.mkdir()
                runners.append(Runner(job, place))
        while len(kills) < count and time.monotonic() - start < seconds:
            runner = runners[len(kills) % len(runners)]
            kills.append(runner.disturb(ways[len(kills) // len(runners) % len(ways)], rng))
            file.write(json.dumps(dataclasses.asdict(kills[-1])) + "\n")
            file.flush()
    return kills


def _warm_up() -> None:
    """Import and cache what a run of any tool would; the children inherit it."""
    import torch.utils.tensorboard  # noqa: F401

    segmenter = load("toybox/san", device="cpu", opts=["MODEL.CLIP.TEXT_CACHE", ""])
    segmenter(np.zeros((32, 32, 3), np.uint8), ["cat", "dog"], others=None).overlay()
    register_catalogue()


def table(kills: Sequence[Kill]) -> str:
    """Counts per job and way, in Markdown."""
    rows = []
    for key in [*dict.fromkeys((kill.job, kill.way) for kill in kills), ("all", "")]:
        mine = [kill for kill in kills if key in ((kill.job, kill.way), ("all", ""))]
        counts = collections.Counter("wrong" if kill.wrong else "right" for kill in mine)
        rows.append([*key, len(mine), sum(kill.stopped for kill in mine), counts["right"], counts["wrong"]])
    return tabulate(rows, headers=["job", "by", "tried", "stopped early", "went on right", "wrong"], tablefmt="github")


def main() -> None:
    """Run, print and write the table; exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--jobs", nargs="+", default=[])
    parser.add_argument(
        "--ways", nargs="+", default=_WAYS, choices=_WAYS, help="a full disk takes a user who may mount"
    )
    parser.add_argument("--seconds", type=float, default=900, help="stop after them")
    parser.add_argument("--output", type=Path, required=True, help="folder for kills.md and kills.jsonl")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    kills = run(
        seed=args.seed, count=args.count, only=args.jobs, ways=args.ways, seconds=args.seconds,
        report=args.output / "kills.jsonl",
    )  # fmt: skip
    text = f"{table(kills)}\n\nseed {args.seed}"
    print(text)
    (args.output / "kills.md").write_text(text + "\n")
    for kill in kills:
        if kill.wrong:
            print(f"WRONG {kill.job}, {kill.way} after {kill.after}: {kill.wrong}")
    sys.exit(any(kill.wrong for kill in kills))


if __name__ == "__main__":
    main()

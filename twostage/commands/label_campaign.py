"""A trial of `twostage label`: many toybox pictures labelled in one go, with kills, and on Ray; all rows must be the same.

A trial that was stopped goes on where it was: `campaign.json` in its folder holds what is known of each run.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from twostage.data.toybox.dataset import SEED, plan_scenes, render
from twostage.errors import UserError
from twostage.files import atomic_path, check_writable, write_text
from twostage.labelling.progress import duration
from twostage.labelling.shards import read_rows

WORDS = "grass; sky; water; sand; blue star; red ring; striped square; yellow star"
# Pictures of which every such one is broken.
_BROKEN_EVERY = 97
# Seconds between two looks at what is complete.
_POLL = 0.05
# Shares of a run's shards after which its memory is told.
_TOLD_AT = (0.1, 0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass
class Run:
    """What is known of a run of `twostage label`, over all its starts.

    Attributes:
        engine: "local" or "ray".
        kills: that it still has to take.
        killed: those that it took.
        seconds: from start to end, of all starts.
        memory: (share of the shards that were complete, bytes of the largest process), after shards.
        rows: the hash of its rows; empty until it is complete.
    """

    engine: str
    kills: int = 0
    killed: int = 0
    seconds: float = 0.0
    memory: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    rows: str = ""

    def memory_line(self) -> str:
        """Memory after some shares of the shards, in words; empty where the system does not tell.

        >>> Run("local", memory=[(0.1, 2**28), (0.6, 2**28), (1.0, 2**29)]).memory_line()
        '256, 256, 256, 512, 512 MiB after 10, 25, 50, 75, 100 % of the shards; '
        """
        if not self.memory:
            return ""
        # The last shard's process may be gone before it is looked at.
        sizes = [next((size for share, size in self.memory if share >= told), self.memory[-1][1]) for told in _TOLD_AT]
        shares = ", ".join(f"{100 * told:.0f}" for told in _TOLD_AT)
        return f"{', '.join(str(size >> 20) for size in sizes)} MiB after {shares} % of the shards; "


def run_from_arguments(args: argparse.Namespace) -> None:
    """Write the pictures, label them as the arguments say, and compare.

    Raises:
        UserError: a run failed, or rows differ.
    """
    check_writable(args.output, "choose another --output")
    source = args.output / "pictures"
    write_pictures(source, args.pictures, args.shard_size)
    journal = args.output / "campaign.json"
    runs = {"whole": Run("local"), "killed": Run("local", args.kills)}
    if args.ray:
        runs["ray"] = Run("ray")
    if journal.exists():
        runs |= {name: Run(**known) for name, known in json.loads(journal.read_text(encoding="utf-8")).items()}
    for name, run in runs.items():
        folder = args.output / name
        options = [str(source), "--words", WORDS, "--others", "none", "--system", args.system, "--format", "jsonl"]
        options += ["--processes", str(args.processes), "--output", str(folder), "--engine", run.engine]
        while not run.rows:
            if label(run, options, folder, shards=-(-args.pictures // args.shard_size)):
                run.rows = rows_hash(folder)
            write_text(journal, json.dumps({name: dataclasses.asdict(run) for name, run in runs.items()}) + "\n")
        print(
            f"{name}: {args.pictures:,} pictures in {duration(run.seconds)} ({args.pictures / run.seconds:.2f} per second), "
            f"{run.killed} kills, {run.memory_line()}rows {run.rows}",
            flush=True,
        )
    if len({run.rows for run in runs.values()}) > 1:
        raise UserError(
            f"the runs differ: { ({name: run.rows for name, run in runs.items()}) }; look at '{args.output}'"
        )
    print("all runs gave the same rows")


def write_pictures(folder: Path, count: int, shard_size: int) -> None:
    """Toybox pictures in tar shards, a few of them broken; shards that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob("*.tar"))) == -(-count // shard_size):
        return
    plans = plan_scenes(SEED, "open", count)
    scenes = render(plans, SEED, "open")
    for number, start in enumerate(range(0, count, shard_size)):
        path = folder / f"{number:05d}.tar"
        if path.exists():
            for _ in range(start, min(start + shard_size, count)):
                next(scenes)
            continue
        with atomic_path(path) as temporary, tarfile.open(temporary, "w") as archive:
            for index in range(start, min(start + shard_size, count)):
                plan, scene = next(scenes)
                buffer = io.BytesIO()
                Image.fromarray(scene.image).save(buffer, format="JPEG", quality=90)
                content = buffer.getvalue()[: 100 if index % _BROKEN_EVERY == 5 else None]
                member = tarfile.TarInfo(f"{plan.name}.jpg")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def label(run: Run, options: list[str], folder: Path, *, shards: int) -> bool:
    """Start `twostage label` once and count it in `run`; it is killed without warning where `run` has kills left.

    Returns whether it came to its end.

    Raises:
        UserError: it failed.
    """
    rng = random.Random(run.killed)
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "twostage", "label", *options], start_new_session=True)
    before = seen = _shards(folder)
    last, took = start, 0.0
    try:
        # Whatever ends this loop early, a kill that is due among it, ends the process, too.
        while process.poll() is None:
            time.sleep(_POLL)
            done, now = _shards(folder), time.perf_counter()
            if done > seen:
                took = (now - last) / (done - seen) if seen > before else 0.0
                seen, last = done, now
                if size := largest_process(process.pid):
                    run.memory.append((done / shards, size))
            # Kills are spread over the run, and each start completes a shard; where it is known how long one takes, the
            # kill falls somewhere in the work on the next.
            due = max(before + 1, shards * (run.killed + 1) // (run.killed + run.kills + 1))
            if run.kills and done >= due:
                time.sleep(rng.uniform(0, took))
                if process.poll() is None:
                    run.killed, run.kills = run.killed + 1, run.kills - 1
                    return False
        if process.returncode:
            raise UserError(f"`twostage label` failed with code {process.returncode}; see above")
        return True
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        run.seconds += time.perf_counter() - start


def largest_process(root: int) -> int:
    """Bytes that the largest of a process and its descendants holds now; 0 where the system does not tell."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # Behind the name, which may hold anything, come state and parent.
            parents[int(entry.parent.name)] = int(entry.read_text(encoding="ascii").rpartition(")")[2].split()[1])
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return max(map(resident_memory, family))


def resident_memory(process: int) -> int:
    """Bytes that a process holds now; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _shards(folder: Path) -> int:
    return len(list(folder.glob("part-*.done")))


def rows_hash(folder: Path) -> str:
    """Of all rows in their order."""
    digest = hashlib.sha256()
    for row in read_rows(folder):
        digest.update(json.dumps(_plain(row), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "label_map"}

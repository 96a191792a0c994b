"""A trial of `twostage label`: many toybox pictures labelled in one go and with kills, whose rows must be the same."""

from __future__ import annotations

import argparse
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
from pathlib import Path
from typing import Any

from PIL import Image

from twostage.data.toybox.dataset import SEED, plan_scenes, render
from twostage.errors import UserError
from twostage.files import atomic_path, check_writable
from twostage.labelling.progress import duration
from twostage.labelling.shards import read_rows

WORDS = "grass; sky; water; sand; blue star; red ring; striped square; yellow star"
# Pictures of which every such one is broken.
_BROKEN_EVERY = 97


def run_from_arguments(args: argparse.Namespace) -> None:
    """Write the pictures, label them as the arguments say, and compare.

    Raises:
        UserError: a run failed, or rows differ.
    """
    check_writable(args.output, "choose another --output")
    source = args.output / "pictures"
    write_pictures(source, args.pictures, args.shard_size)
    runs = {"whole": ["--engine", "local"], "killed": ["--engine", "local"]}
    if args.ray:
        runs["ray"] = ["--engine", "ray"]
    hashes = {}
    for name, engine in runs.items():
        options = [str(source), "--words", WORDS, "--others", "none", "--system", args.system, "--format", "jsonl"]
        options += ["--processes", str(args.processes), "--output", str(args.output / name), *engine]
        start = time.perf_counter()
        kills, memory = label(options, kills=args.kills if name == "killed" else 0, folder=args.output / name)
        seconds = time.perf_counter() - start
        hashes[name] = rows_hash(args.output / name)
        print(
            f"{name}: {args.pictures:,} pictures in {duration(seconds)} ({args.pictures / seconds:.2f} per second), {kills} "
            f"kills, {memory}rows {hashes[name]}",
            flush=True,
        )
    if len(set(hashes.values())) > 1:
        raise UserError(f"the runs differ: {hashes}; look at '{args.output}'")
    print("all runs gave the same rows")


def write_pictures(folder: Path, count: int, shard_size: int) -> None:
    """Toybox pictures in tar shards, a few of them broken; shards that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
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


def label(options: list[str], *, kills: int, folder: Path) -> tuple[int, str]:
    """Run `twostage label`, killed without warning so often and started again.

    Returns how often it was, and the memory of the process that came to the end, early and late, in words.
    """
    rng = random.Random(0)
    done = 0
    while True:
        process = subprocess.Popen([sys.executable, "-m", "twostage", "label", *options], start_new_session=True)
        before, sizes = _shards(folder), []
        while process.poll() is None:
            time.sleep(0.2)
            # A kill falls somewhere in the work on a shard, after at least one more is complete.
            if _shards(folder) > before:
                sizes.append(resident_memory(process.pid))
                if done < kills:
                    time.sleep(rng.uniform(0, 3))
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)
                        done += 1
                        break
        # A killed one goes on, one that ended by itself is the last.
        if process.wait() > 0:
            raise UserError(f"`twostage label` failed with code {process.returncode}; see above")
        if process.returncode == 0:
            known = [size for size in sizes if size]
            early, late = (known[len(known) // 10], known[-1]) if known else (0, 0)
            return done, f"{early >> 20} MiB early and {late >> 20} MiB late, " if known else ""


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

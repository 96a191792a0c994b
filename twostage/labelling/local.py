"""The engine that needs nothing else: process r of n takes units r, r + n, r + 2 n, ...

On several machines with a shared disk the same command is started on each, by torchrun or Slurm, whose variables say which
process this is.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from twostage.errors import EXIT_TERMINATED, UserError
from twostage.labelling.labeller import Labeller
from twostage.labelling.progress import Progress
from twostage.labelling.shards import Output
from twostage.labelling.units import Unit
from twostage.machine import end_with_parent, start_together

# What launchers call the number of a process, and how many there are; the first that is there counts.
_LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


class Rank(NamedTuple):
    """Process `number` of `total`."""

    number: int = 0
    total: int = 1


def rank_of(environment: Mapping[str, str]) -> Rank:
    """Which process a launcher says this is; the only one where there is no launcher.

    Raises:
        UserError: the variables are no numbers, or contradict each other.

    >>> rank_of({"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}), rank_of({})
    (Rank(number=3, total=8), Rank(number=0, total=1))
    """
    for number, count in _LAUNCHERS:
        if number in environment and count in environment:
            try:
                rank = Rank(int(environment[number]), int(environment[count]))
            except ValueError:
                rank = Rank(-1)
            if not 0 <= rank.number < rank.total:
                raise UserError(
                    f"{number} is {environment[number]} and {count} is {environment[count]}; unset them, or start anew"
                )
            return rank
    return Rank()


def gpu_number(environment: Mapping[str, str]) -> int:
    """Which of the processes of its machine a launcher says this is; 0 where there is no launcher.

    >>> gpu_number({"SLURM_LOCALID": "3"}), gpu_number({})
    (3, 0)
    """
    numbers = [environment[name] for name in ("LOCAL_RANK", "SLURM_LOCALID") if name in environment]
    return int(numbers[0]) if numbers and numbers[0].isdecimal() else 0


def use_own_gpu(number: int) -> None:
    """Let process `number` of this machine compute on a GPU of its own, where there are enough."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def run(labeller: Labeller, units: Sequence[Unit], output: Output, *, processes: int) -> None:
    """Label the units that fall to this launcher's process, by so many processes of its own.

    Raises:
        UserError: what a process ran into.
    """
    outer = rank_of(os.environ)
    ranks = [Rank(outer.number * processes + i, outer.total * processes) for i in range(processes)]
    if processes == 1:
        work(labeller, units, output, ranks[0])
        return
    threads = max(1, torch.get_num_threads() // processes)
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=_spawned, args=(labeller, units, output, rank, threads, number))
        for number, rank in enumerate(ranks, start=gpu_number(os.environ) * processes)
    ]
    start_together(started)
    try:
        for process in started:
            process.join()
    finally:
        for process in started:
            if process.is_alive():
                process.terminate()
                process.join()
    _say_what_failed([process.exitcode or 0 for process in started])


def _say_what_failed(codes: Sequence[int]) -> None:
    if EXIT_TERMINATED in codes:
        sys.exit(EXIT_TERMINATED)
    killed = [-code for code in codes if code < 0]
    if killed:
        raise UserError(
            f"{len(killed)} of {len(codes)} processes were killed (signal {killed[0]}; 9 is often for want of memory); the "
            "same command goes on where they stopped"
        )
    # Whoever failed has said why.
    if any(codes):
        sys.exit(max(codes))


def _spawned(labeller: Labeller, units: Sequence[Unit], output: Output, rank: Rank, threads: int, number: int) -> None:
    from twostage.errors import run_cli

    end_with_parent()
    torch.set_num_threads(threads)
    use_own_gpu(number)
    run_cli(lambda: work(labeller, units, output, rank))


def work(labeller: Labeller, units: Sequence[Unit], output: Output, rank: Rank) -> None:
    """Label this process's units, those left out that are complete; memory holds one unit's rows at a time."""
    mine = range(rank.number, len(units), rank.total)
    left = [number for number in mine if not output.is_done(number)]
    total = sum(len(units[number]) for number in left)
    progress = Progress(total, name=f"process {rank.number} of {rank.total}" if rank.total > 1 else "")
    skipped = len(mine) - len(left)
    if skipped:
        print(f"{skipped} of {len(mine)} shards are there already", flush=True)
    for number in left:
        rows = []
        for row in labeller(units[number].items()):
            rows.append(row)
            progress.add(1, bool(row["error"]))
        progress.settle(len(units[number]), len(rows))
        output.write(number, rows, labeller.words)
    print(progress.line(), flush=True)

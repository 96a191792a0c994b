"""One process or many: spawned here by `--num-gpus`, or started by torchrun."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlparse

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from twostage.allocator import keep_freed_memory
from twostage.errors import EXIT_TERMINATED, UserError
from twostage.machine import available_cores, end_with_parent

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launch(
    function: Callable[..., object],
    *,
    processes: int,
    device: str,
    machines: int = 1,
    machine_rank: int = 0,
    address: str = "auto",
    args: tuple = (),
) -> None:
    """Call `function(*args)` in `processes` processes on each of `machines` machines, with torch.distributed ready.

    NCCL connects GPUs, gloo processes on the CPU. Inside torchrun (it sets RANK, WORLD_SIZE, ...) the process joins the
    others and nothing is spawned.

    Args:
        processes: on this machine; with GPUs, one each. 0 is the same as 1.
        device: "cpu" or "cuda".
        address: `tcp://host:port` of machine 0, "auto" on a single machine.

    Raises:
        UserError: more processes than GPUs, or an address that does not fit.
    """
    if all(name in os.environ for name in _TORCHRUN):
        _join(device)
        function(*args)
        leave_process_group()
        return
    if processes < 0 or machines < 1:
        raise UserError(f"--num-gpus is {processes}, --num-machines {machines}; give numbers of 1 or more")
    processes = max(processes, 1)
    if device.startswith("cuda") and processes > torch.cuda.device_count():
        raise UserError(f"--num-gpus is {processes}, but this machine has {torch.cuda.device_count()} GPU(s)")
    if processes * machines == 1:
        function(*args)
        return
    if not 0 <= machine_rank < machines:
        raise UserError(f"--machine-rank is {machine_rank}; with --num-machines {machines} it is 0 to {machines - 1}")
    host, port = _parse_address(address, machines)
    context = mp.start_processes(
        _spawned,
        nprocs=processes,
        args=(function, processes, machines, machine_rank, host, port, device, args),
        start_method="spawn",
        join=False,
    )
    _wait(context)


def _wait(context: Any) -> None:
    """Wait for spawned processes; SIGTERM and SIGINT are theirs to handle, and when all have left this one leaves alike."""
    asked = 0

    def pass_on(number: int, _frame: Any) -> None:
        nonlocal asked
        asked = number
        for process in context.processes:
            # Ctrl-C reaches all processes of a terminal by itself; once more does no harm.
            process.terminate()

    caught = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in caught}
    try:
        while not context.join():
            pass
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        if not asked and isinstance(error, mp.ProcessExitedException) and error.exit_code < 0:
            raise UserError(_ended_by_signal(error.error_index, -error.exit_code)) from error
        if not asked:
            raise
        for process in context.processes:
            process.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked == signal.SIGINT:
        raise KeyboardInterrupt
    if asked:
        sys.exit(EXIT_TERMINATED)


def _ended_by_signal(place: int, number: int) -> str:
    """What to tell of a process that a signal ended."""
    name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
    cause = (
        "; most often the machine was out of memory, of which fewer processes take less" if name == "SIGKILL" else ""
    )
    return (
        f"process {place} was ended by {name}, and the others with it{cause}; --resume goes on from the last checkpoint"
    )


def _parse_address(address: str, machines: int) -> tuple[str, int]:
    if address == "auto":
        if machines > 1:
            raise UserError("several machines need --dist-url tcp://HOST:PORT, the same on all (HOST: machine 0)")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", free.getsockname()[1]
    parts = urlparse(address)
    if parts.scheme != "tcp" or not parts.hostname or not parts.port:
        raise UserError(f"--dist-url is '{address}'; it looks like tcp://HOST:PORT")
    return parts.hostname, parts.port


def _spawned(
    local_rank: int,
    function: Callable[..., object],
    processes: int,
    machines: int,
    machine_rank: int,
    host: str,
    port: int,
    device: str,
    args: tuple,
) -> None:
    """A spawned process sets torchrun's environment and then is no different from one of torchrun's."""
    rank = machine_rank * processes + local_rank
    values = (rank, processes * machines, local_rank, processes, host, port)
    os.environ.update({name: str(value) for name, value in zip(_TORCHRUN, values, strict=True)})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    end_with_parent()
    keep_freed_memory()
    _join(device)
    function(*args)
    leave_process_group()


def _join(device: str) -> None:
    """Join the process group that the environment describes."""
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device.startswith("cuda"):
        torch.cuda.set_device(local_rank)
        dist.init_process_group("nccl")
    else:
        # Each process would otherwise start a thread per core.
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, available_cores() // local_size))
        dist.init_process_group("gloo")
    comm.create_local_process_group(local_size)
    comm.synchronize()


def leave_process_group() -> None:
    """Leave the process group, once all are done, so that none of its threads outlives it.

    Destroying a group ends its threads only once nothing refers to it any more. A gloo thread that is still there when the
    interpreter shuts down may release a tensor then; CPython ends threads that ask for its lock so late, and C++ takes that
    for a fatal error ("terminate called without an active exception") after all the work is done. The two names are
    Detectron2's own.
    """
    comm.synchronize()
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    # A DistributedDataParallel in a reference cycle holds the default group.
    gc.collect()
    dist.destroy_process_group()

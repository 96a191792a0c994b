"""One process per GPU, on one machine or several."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call `main_func(*args)` in every process of a distributed run; with only one process, simply call it.

    NCCL connects the processes where there are GPUs, else gloo. To be called on each machine.

    Args:
        num_gpus_per_machine: processes per machine.
        machine_rank: number of this machine.
        dist_url: `tcp://host:port` of machine 0; "auto" picks a free port on a single machine.

    Raises:
        torch.multiprocessing.ProcessRaisedException: the function failed in a process.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url='auto' works on a single machine only"
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    mp.start_processes(
        _run_process,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
        daemon=False,
        start_method="spawn",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_process(
    local_rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    processes_per_machine: int,
    machine_rank: int,
    dist_url: str | None,
    args: tuple,
    timeout: timedelta,
) -> None:
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        assert processes_per_machine <= torch.cuda.device_count(), "more processes than GPUs"
    dist.init_process_group(
        backend="NCCL" if has_gpu else "GLOO",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * processes_per_machine + local_rank,
        timeout=timeout,
    )
    comm.create_local_process_group(processes_per_machine)
    if has_gpu:
        torch.cuda.set_device(local_rank)
    # Nobody runs ahead while others still connect.
    comm.synchronize()
    main_func(*args)
    _leave()


def _leave() -> None:
    """Wait for the others and end the groups' threads, which destroying does only once nothing refers to a group.

    A gloo thread that lives on may release its last tensor while the interpreter shuts down; CPython ends threads that then
    ask for its lock, and C++ aborts the whole process ("terminate called without an active exception").
    """
    comm.synchronize()
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    # A DistributedDataParallel in a reference cycle holds the default group.
    gc.collect()
    dist.destroy_process_group()

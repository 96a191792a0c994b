"""Talking to the other processes of a run. Without torch.distributed, everything behaves as in a run of one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes on all machines."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Number of this process among all."""
    return dist.get_rank() if _is_distributed() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Join the group of this machine's processes; to be called once, by all processes, after `init_process_group`.

    Raises:
        AssertionError: called twice, or the processes do not divide into machines of that size.
    """
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None, "the local process group exists already"
    assert get_world_size() % num_workers_per_machine == 0, (
        f"{get_world_size()} processes do not make machines of {num_workers_per_machine}"
    )
    mine = get_rank() // num_workers_per_machine
    for machine in range(get_world_size() // num_workers_per_machine):
        ranks = range(machine * num_workers_per_machine, (machine + 1) * num_workers_per_machine)
        # Every process takes part in the creation of every group.
        group = dist.new_group(list(ranks))
        if machine == mine:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> dist.ProcessGroup:
    """The group of this machine's processes. AssertionError before `create_local_process_group`."""
    assert _LOCAL_PROCESS_GROUP is not None, "no local process group; start processes by launch(), or create it"
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Number of this process among those of its machine."""
    return dist.get_rank(group=get_local_process_group()) if _is_distributed() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _is_distributed() else 1


def is_main_process() -> bool:
    """Whether this is rank 0."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until all processes are here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache(maxsize=1)
def _get_global_gloo_group() -> dist.ProcessGroup | None:
    """A group of all processes that can carry CPU data."""
    return dist.new_group(backend="gloo") if dist.get_backend() == dist.Backend.NCCL else dist.group.WORLD


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """The `data` (anything that pickles) of every process, in order of rank, on every process."""
    if get_world_size() == 1:
        return [data]
    group = group or _get_global_gloo_group()
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """As `all_gather`, but on rank `dst` only; the others get an empty list."""
    if get_world_size() == 1:
        return [data]
    group = group or _get_global_gloo_group()
    gathered = [None] * dist.get_world_size(group) if dist.get_rank() == dst else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered or []


def shared_random_seed() -> int:
    """A random number below 2^31 that is the same on all processes; all of them must call it."""
    return all_gather(int(np.random.randint(2**31)))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Mean (or sum) over processes of a dict of scalar tensors with the same keys everywhere; valid on rank 0."""
    if get_world_size() == 1:
        return input_dict
    with torch.no_grad():
        # Sorted, because the order of insertion may differ between processes.
        names = sorted(input_dict)
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if is_main_process() and average:
            values /= get_world_size()
        return dict(zip(names, values, strict=True))

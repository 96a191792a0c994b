"""How much of a run is arithmetic that no rearrangement saves: its multiply-adds beside what this machine does of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

# Side of the square matrices whose product stands for the best that the machine does: large enough that copies don't count.
_SIDE = 2048


def operations(run: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in a call of `run`, a multiply-add as two.

    As torch counts them from the shapes; element-wise steps, norms and resizes are not in it, nor are `embedding_bag`'s.
    """
    # torch's table of operators lacks the attention that its own CPU kernel computes.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={attention: _attention_operations})
    with counter:
        run()
    return int(counter.get_total_flops())


def _attention_operations(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """Of attention between shapes `[B, heads, N, D]`."""
    return int(sdpa_flop_count(query, key, value))


def best_rate(dtype: torch.dtype, device: torch.device, repeats: int = 5) -> float:
    """Floating-point operations per second of processor time in a product of two large matrices (the median of `repeats`).

    On a GPU, per second on the clock.
    """
    left, right = (torch.randn(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))
    seconds = []
    # Once for the library to choose its kernel, before it is timed.
    for turn in range(repeats + 1):
        start = _now(device)
        left @ right
        if turn:
            seconds.append(_now(device) - start)
    return 2 * _SIDE**3 / statistics.median(seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()

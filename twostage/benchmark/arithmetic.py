"""How much of a run is arithmetic that no rearrangement saves: its multiply-adds beside what this machine does of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

# Side of the square matrices whose product stands for the best that the machine does: large enough that copies don't count.
_SIDE = 2048


def _attention_operations(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Of attention between `[B, heads, N, D]`."""
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_gradient_operations(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> int:
    """Of its backward pass."""
    return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))


# torch's table lacks the attention that its own CPU kernels compute.
_COUNTS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_gradient_operations,
}


def operations(run: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in a call of `run`, a multiply-add as two.

    As torch counts them from the shapes; element-wise steps, norms and resizes are not in it, nor are `embedding_bag`'s.
    """
    if not torch.is_inference_mode_enabled():
        with _Counter() as counter:
            run()
        return counter.total
    # There operators that consist of others would come to the counter whole, which it does not know.
    with torch.inference_mode(False), torch.no_grad():
        return operations(run)


class _Counter(TorchDispatchMode):
    """Adds up what torch's table says of each operator.

    torch's own `FlopCounterMode` also follows which module is running, and trips over parameters in inference mode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = _COUNTS.get(func._overloadpacket)
        result = func(*args, **kwargs)
        if count is not None:
            self.total += int(count(*args, **kwargs, out_val=result))
        return result


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

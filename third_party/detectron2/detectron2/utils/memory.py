"""Living with a GPU's memory."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["retry_if_cuda_oom"]


def retry_if_cuda_oom(func: Callable) -> Callable:
    """Make `func` survive CUDA running out of memory: try, empty the cache and try again, try with inputs on the CPU.

    Only direct tensor arguments are copied, so `func` must work on the CPU where they are; its outputs may come back
    on the CPU as well.
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for _ in range(2):
            try:
                return func(*args, **kwargs)
            except RuntimeError as error:
                if "CUDA out of memory. " not in str(error):
                    raise
            torch.cuda.empty_cache()
        logging.getLogger(__name__).info("Attempting to copy inputs of %s to CPU due to CUDA OOM", func)
        return func(*map(_on_cpu, args), **{key: _on_cpu(value) for key, value in kwargs.items()})

    return wrapped


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value

"""Tensors that depend on shapes alone, kept for the shapes seen last."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

_Make = TypeVar("_Make", bound=Callable[..., Tensor])


def shape_cache(*, maxsize: int) -> Callable[[_Make], _Make]:
    """Keeps what a function returned for its last `maxsize` arguments.

    While a network is traced (`torch.export`), shapes are symbols and tensors have no content, so the function runs anew and
    nothing is kept.
    """

    def decorate(make: _Make) -> _Make:
        cached = lru_cache(maxsize=maxsize)(make)

        @wraps(make)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (make if torch.compiler.is_exporting() else cached)(*args, **kwargs)

        return cast("_Make", call)

    return decorate

"""Keeping what a model's parts put out during a run, under the names of the cases."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from torch import nn

Arrays = dict[str, Any]
Hook = tuple[nn.Module, Callable[[Any, Any], None]]


@contextlib.contextmanager
def hooked(hooks: Sequence[Hook]) -> Iterator[None]:
    """Call `hook(inputs, output)` after each forward pass of `module`, for every pair (module, hook)."""
    handles = [m.register_forward_hook(lambda _m, args, out, hook=hook: hook(args, out)) for m, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def keep(arrays: Arrays, *names: str, change: Callable[[Any], Any] = lambda x: x) -> Callable[[Any, Any], None]:
    """A hook that keeps a module's output under `names`."""
    return lambda _args, out: arrays.update(dict.fromkeys(names, change(out)))


def keep_input(arrays: Arrays, name: str, index: int = 0) -> Callable[[Any, Any], None]:
    """A hook that keeps a module's input under `name`."""
    return lambda args, _out: arrays.__setitem__(name, args[index])


def keep_levels(arrays: Arrays) -> Callable[[Any, Any], None]:
    """A hook that keeps a backbone's maps as `backbone_<level>`."""
    return lambda _args, out: arrays.update({f"backbone_{level}": x for level, x in out.items()})


@contextlib.contextmanager
def patched(*replacements: tuple[Any, str, Any]) -> Iterator[None]:
    """Within, `name` of `owner` is the replacement, for every (owner, name, replacement)."""
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in replacements:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def after(owner: Any, name: str, observe: Callable[..., None]) -> tuple[Any, str, Any]:
    """A replacement for `patched`: the function as it is, after which `observe(output, *arguments)` is called."""
    original = getattr(owner, name)

    def observed(*args: Any, **kwargs: Any) -> Any:
        out = original(*args, **kwargs)
        observe(out, *args)
        return out

    return owner, name, observed

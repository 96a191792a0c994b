"""Which of two forms of a computation runs: the cheaper one, or the published one. They are equal but for rounding.

Rounding matters where masks are cut at a threshold: a pixel whose logit lies within float noise of it falls on either side,
and whoever pools or crops inside the mask sees another region. In the published order of operations a mask generator's CPU
results equal those of the authors' code bit for bit (same torch, same number of threads), so no pixel flips. That takes
about 60 % more time in the pixel decoder and twice the time in the masked decoder, and is for comparisons with stored runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_published: ContextVar[bool] = ContextVar("published_rounding", default=False)


def rounds_as_published() -> bool:
    """Whether the published order of operations is wanted."""
    return _published.get()


@contextlib.contextmanager
def published_rounding() -> Iterator[None]:
    """Within, generators compute in the published order of operations; also a decorator."""
    token = _published.set(True)
    try:
        yield
    finally:
        _published.reset(token)

"""How long a download waits for a server before it counts a connection as broken, and how often it tries again."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds and bytes.

    Attributes:
        connect: for a connection.
        read: for the next bytes.
        window, least: a connection that brings fewer than `least` bytes in `window` seconds is given up, so that one that
            drips can't go on for days.
        tries: connections in a row that bring fewer than `fruitful` bytes.
        wait: before the second try; doubles with each.
    """

    connect: float = 10.0
    read: float = 30.0
    window: float = 60.0
    least: int = 1 << 16
    fruitful: int = 1 << 20
    tries: int = 5
    wait: float = 1.0

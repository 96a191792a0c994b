"""How far a run is, at a rate and with the time left, as plain lines that a log can hold."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """Counts pictures and says so every now and then."""

    def __init__(
        self, total: int, *, name: str = "", every: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            total: pictures that are to be done.
            name: of this process, in front of every line.
            every: seconds between lines.
        """
        self.total = total
        self.done = self.broken = 0
        self._name = f"{name}: " if name else ""
        self._every = every
        self._clock = clock
        self._start = self._said = clock()

    def add(self, pictures: int, broken: int) -> None:
        """Count pictures, and print a line where the last one is old enough."""
        self.done += pictures
        self.broken += broken
        if self._clock() - self._said >= self._every:
            self._said = self._clock()
            print(self.line(), flush=True)

    def settle(self, guessed: int, found: int) -> None:
        """A part of the total was guessed, and is done now."""
        self.total += found - guessed

    def line(self) -> str:
        """Pictures so far, pictures per second, time left."""
        seconds = max(self._clock() - self._start, 1e-9)
        rate = self.done / seconds
        left = f", {duration((self.total - self.done) / rate)} left" if 0 < self.done < self.total else ""
        return (
            f"{self._name}{self.done:,} of {self.total:,} pictures, {rate:.2f} per second{left}"
            f"{f', {self.broken:,} broken' if self.broken else ''}"
        )


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(42), duration(4000), duration(200000)
    ('42 s', '1 h 06 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

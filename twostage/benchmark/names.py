"""What the steps of a system are called, in the order of the tables; apart, so that `--help` needs no torch."""

from __future__ import annotations

NAMES = ("trunk", "encode", "decode", "label map", "whole")


def words(count: int) -> list[str]:
    """A vocabulary of `count` names that mean nothing."""
    return [f"thing number {i}" for i in range(count)]

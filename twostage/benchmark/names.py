"""What the steps of a system are called, in the order of the tables; apart, so that `--help` needs no torch."""

from __future__ import annotations

NAMES = ("trunk", "encode", "decode", "label map", "whole")

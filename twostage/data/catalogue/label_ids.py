"""Ids that the original downloads hold (`label_ids.json`)."""

from __future__ import annotations

import functools
import json
from pathlib import Path


@functools.cache
def label_ids(name: str) -> tuple[int, ...]:
    """A list of `label_ids.json`: the n-th number is the id of class n."""
    return tuple(json.loads(Path(__file__).with_name("label_ids.json").read_text(encoding="utf-8"))[name])

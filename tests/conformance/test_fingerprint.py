"""Fingerprints notice a changed bit and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from conformance import fingerprint
from conformance.fingerprint import compare, digest
from twostage.errors import UserError


def test_a_digest_knows_values_types_shapes_and_places() -> None:
    value = {"a": torch.arange(6.0).view(2, 3), "b": [1, 0.5, "word", np.zeros(2, np.int64)]}
    assert digest(value) == digest({"b": value["b"], "a": value["a"].clone()})
    last_bit = torch.arange(6.0).view(2, 3)
    last_bit[1, 2] = float(np.nextafter(np.float32(5), np.float32(6)))
    others = [
        {**value, "a": last_bit},
        {**value, "a": value["a"].view(3, 2)},
        {**value, "a": value["a"].double()},
        {**value, "b": [1, 0.5, "words", np.zeros(2, np.int64)]},
        {**value, "b": [0.5, 1, "word", np.zeros(2, np.int64)]},
        {**value, "b": [1, 0.5, ["word"], np.zeros(2, np.int64)]},
        {"a": value["a"], "c": value["b"]},
    ]
    assert len({digest(value), *map(digest, others)}) == 1 + len(others)


def test_a_hash_that_differs_or_is_lacking_is_named() -> None:
    before = {"san": {"labels": "0", "losses": "1", "old": "2"}, "sed": {"labels": "0"}, "clip": {"labels": "0"}}
    after = {"san": {"labels": "0", "losses": "3", "new": "4"}, "sed": {"labels": "0"}}
    assert compare(before, after) == ["san: losses, new, old differ"]


@pytest.mark.parametrize("name", ["maskclip", pytest.param("san", marks=pytest.mark.slow)])
def test_the_same_code_has_the_same_fingerprint(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fingerprint.fingerprint(name)
    assert fingerprint.fingerprint(name) == first
    assert {"names", "scores", "labels", "forward"} <= set(first)
    trained = {"panoptic", "batch", "losses", "gradients", "trained"}
    assert set(first) & trained == (trained if name == "san" else set())
    seeded = fingerprint.seeded_tensor
    monkeypatch.setattr(fingerprint, "seeded_tensor", lambda name, shape: seeded(name, shape) * (1 + 2**-20))
    other = fingerprint.fingerprint(name)
    # Another weight changes the numbers of a system with weights of its own, never its names or its data.
    changed = {key for key in first if other[key] != first[key]}
    if name == "maskclip":
        assert not changed
    else:
        assert {"scores", "losses", "gradients"} <= changed and not changed & {"names", "batch", "trained"}


@pytest.mark.parametrize("content", ["", "[]", '{"san": 3}'])
def test_a_file_of_something_else(content: str, tmp_path: Path) -> None:
    (tmp_path / "before.json").write_text(content)
    with pytest.raises(UserError, match=r"before\.json' is no file of fingerprints"):
        fingerprint.read(tmp_path / "before.json")


def test_a_file_is_read_as_written(tmp_path: Path) -> None:
    prints = {"san": {"labels": "0123456789abcdef"}}
    (tmp_path / "before.json").write_text(json.dumps(prints))
    assert fingerprint.read(tmp_path / "before.json") == prints

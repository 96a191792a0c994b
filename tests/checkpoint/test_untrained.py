"""A system that must be trained says so when it is used without weights."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from twostage.api import load


@pytest.fixture(scope="module")
def san(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "san.pth"
    torch.save({"model": load("toybox/san", device="cpu").model.state_dict()}, path)
    return path


@pytest.mark.parametrize(
    ("system", "opts", "said"),
    [
        ("toybox/san", [], "676,994 of its parameters"),
        ("toybox/san", ["MODEL.WEIGHTS", "{san}"], ""),
        ("toybox/maskclip", [], ""),
        # Its own generator is not asked, and CLIP comes trained.
        ("toybox/ovseg_superpixels", [], ""),
        ("toybox/ovseg", [], "of its parameters"),
    ],
)
def test_who_is_warned(system, opts, said, san, caplog):
    with caplog.at_level(logging.WARNING, logger="twostage.checkpoint.untrained"):
        load(system, device="cpu", opts=[opt.format(san=san) for opt in opts])
    if said:
        assert said in caplog.text and "--weights" in caplog.text
    else:
        assert not caplog.text

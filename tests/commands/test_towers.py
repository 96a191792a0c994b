"""The probe of dense towers: what it measures of one, and the table with those that do not run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from twostage.commands import towers
from twostage.errors import UserError

ROOT = Path(__file__).parents[2]


def test_a_plain_vit_and_any_other_tower_are_encoded_densely() -> None:
    vit, convnext = towers.probe("toybox-vit"), towers.probe("toybox-convnext")
    assert vit["grid"] == "16x16 (vit)" and vit["picture"] == "128x128" and vit["embedding"] == 128
    assert convnext["grid"].endswith("(timm)")
    for found in (vit, convnext):
        assert found["names"] == "yes" and 1 < found["parameters"] < 10 and found["peak"] > 0.1


def test_without_its_tokenizer_a_tower_reads_random_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_name: str) -> None:
        raise UserError("the tokenizer can't be had")

    monkeypatch.setattr(towers, "load_tokenizer", gone)
    found = towers.probe("toybox-vit")
    assert found["names"].startswith("random tokens") and found["embedding"] == 128


def test_a_tower_that_does_not_run_says_why() -> None:
    done = subprocess.run(
        [sys.executable, "tools/towers.py", "ViT-B-17", "toybox-vit"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    rows = done.stdout.splitlines()
    assert rows[2].startswith("| ViT-B-17") and "does not run: " in rows[2] and "open_clip does not know" in rows[2]
    assert rows[3].startswith("| toybox-vit") and "16x16 (vit)" in rows[3]


def test_a_tokenizer_that_can_not_be_downloaded_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from twostage.clip import loading

    def offline(_name: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr(loading.open_clip, "get_tokenizer", offline)
    with pytest.raises(UserError, match=r"the tokenizer of MODEL\.CLIP\.NAME 'ViT-B-16' can't be had \(no network\)"):
        loading.load_tokenizer("ViT-B-16")

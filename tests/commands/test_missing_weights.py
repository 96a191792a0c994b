"""Weights that are not there are told before any data are read or made."""

from __future__ import annotations

from pathlib import Path

import pytest

from twostage.commands import evaluate, train
from twostage.commands.main import run
from twostage.errors import UserError


@pytest.mark.parametrize(
    "command", [["train"], ["evaluate", "--datasets", "toybox_val_open"]], ids=["train", "evaluate"]
)
def test_told_first(command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (train, evaluate):
        monkeypatch.setattr(module, "check_dataset", None)
    opts = ["MODEL.WEIGHTS", "nowhere.pth", "OUTPUT_DIR", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"checkpoint 'nowhere\.pth' does not exist"):
        run([*command[:1], "--system", "toybox/san", *command[1:], *opts])
    assert not (tmp_path / "out").exists()

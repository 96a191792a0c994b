"""The trial of `tools/label_campaign.py`, small: processes are killed and the rows stay the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from twostage.commands.label_campaign import run_from_arguments
from twostage.commands.tool_arguments import label_campaign_parser


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills process groups by POSIX signals")
def test_kills_do_not_change_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pictures", "12", "--kills", "1", "--shard-size", "4", "--output", str(tmp_path)]
    run_from_arguments(label_campaign_parser().parse_args(words))
    printed = capsys.readouterr().out
    assert "all runs gave the same rows" in printed and "killed: 12 pictures" in printed

"""The trial of `tools/label_campaign.py`, small: processes are killed and the rows stay the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from twostage.commands.label_campaign import run_from_arguments
from twostage.commands.tool_arguments import label_campaign_parser
from twostage.errors import UserError


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills process groups by POSIX signals")
def test_kills_do_not_change_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pictures", "12", "--kills", "1", "--shard-size", "4", "--output", str(tmp_path)]
    run_from_arguments(label_campaign_parser().parse_args(words))
    printed = capsys.readouterr().out
    assert "all runs gave the same rows" in printed and "killed: 12 pictures" in printed and ", 1 kills, " in printed
    # The same again starts nothing, and hashes that differ are an error.
    run_from_arguments(label_campaign_parser().parse_args(words))
    again = capsys.readouterr().out.splitlines()
    assert len(again) == 3 and all(line in printed for line in again)
    journal = tmp_path / "campaign.json"
    known = json.loads(journal.read_text())
    assert known["killed"]["killed"] == 1 and known["killed"]["kills"] == 0 and known["whole"]["memory"]
    known["killed"]["rows"] = "0" * 16
    journal.write_text(json.dumps(known))
    with pytest.raises(UserError, match="the runs differ"):
        run_from_arguments(label_campaign_parser().parse_args(words))

"""Arguments out of their range."""

from __future__ import annotations

import pytest

from twostage.commands.arguments.pictures import demo_parser
from twostage.errors import UserError

NEEDED = ["--config-file", "x.yaml", "--input", "a.jpg", "--vocabulary", "cat", "--output", "out"]


@pytest.mark.parametrize("value", ["7", "-0.1", "nan", "much"])
def test_a_share_lies_between_0_and_1(value: str) -> None:
    with pytest.raises(UserError, match="give a number between 0 and 1"):
        demo_parser().parse_args([*NEEDED, f"--min-score={value}"])
    assert demo_parser().parse_args([*NEEDED, "--min-score", "1"]).segment_score == 1

"""The table of systems: what the cards say, in the README, as JSON, without torch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from twostage.commands.arguments.systems import systems_parser
from twostage.commands.systems import BEGIN, END, not_hosted_table, run_from_arguments, table, updated_readme
from twostage.errors import UserError
from twostage.systems.cards import all_cards
from twostage.systems.not_hosted import NOT_HOSTED

ROOT = Path(__file__).parents[2]


def test_the_readme_says_what_the_cards_say() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert updated_readme(text) == text, "run: python tools/systems.py --update-readme"


def test_a_row_holds_name_configs_and_what_was_compared() -> None:
    card = next(card for card in all_cards() if card.name == "Mask2Former")
    card = dataclasses.replace(card, checked="a|b", code_licence="MIT", weights_licence="")
    header, rule, row = table([card]).splitlines()
    assert header.count("|") == rule.count("|") == row.count("|")
    assert "[Mask2Former](twostage/systems/two_stage/mask2former/README.md) (CVPR 2022)" in row
    assert "`mask2former_*`, `toybox/mask2former`, `toybox/mask2former_agnostic`" in row
    assert "a&#124;b" in row and row.endswith("| MIT, not stated |")


def test_two_stage_systems_come_first() -> None:
    cards = all_cards()
    rows = table(reversed(cards)).splitlines()[2:]
    assert len(rows) == len(cards)
    paradigms = [row.split(" | ")[1] for row in rows]
    assert list(dict.fromkeys(paradigms)) == ["two-stage", "one-stage", "training-free"]


def test_a_card_from_elsewhere_has_no_handbook_here_and_no_row_in_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = dataclasses.replace(all_cards()[0], name="Foreign", module="foreign.model")
    monkeypatch.setattr("twostage.commands.systems.all_cards", lambda: (foreign,))
    assert "| Foreign (" in table([foreign])
    assert "Foreign" not in updated_readme(f"a\n{BEGIN}\nstale row\n{END}\nb")


def test_update_keeps_the_rest_and_names_a_missing_marker() -> None:
    text = updated_readme(f"before\n{BEGIN}\nstale row\n{END}\nafter\n")
    assert (
        text.startswith(f"before\n{BEGIN}\n| system |") and text.endswith(f"{END}\nafter\n") and "stale row" not in text
    )
    for broken in ("nothing", f"{BEGIN} only", f"{END}\n{BEGIN}"):
        with pytest.raises(UserError, match=r"lacks the line"):
            updated_readme(broken)


def _as_json(then: str = "") -> str:
    """What `tools/systems.py --json` prints; `then` is run behind it in the same process."""
    code = (
        "import runpy, sys\nsys.argv = ['systems.py', '--json']\n"
        f"runpy.run_path({str(ROOT / 'tools/systems.py')!r}, run_name='__main__')\n{then}"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


# Upstream's package imports torch by itself.
@pytest.mark.own_detectron2
def test_nothing_imports_torch() -> None:
    _as_json("assert 'torch' not in sys.modules")


def test_json_holds_every_card() -> None:
    out = _as_json()
    cards = {card["name"]: card for card in json.loads(out)}
    assert list(cards) == [card.name for card in all_cards()]
    assert cards["SAN"]["configs"][0] == "san_vitb" and cards["CAT-Seg"]["variants"] == ["v1", "v2"]


def test_systems_that_are_not_hosted_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/choose_a_system.md").read_text(encoding="utf-8")
    assert not_hosted_table() in page, "put twostage.commands.systems.not_hosted_table() into docs/choose_a_system.md"
    names = {system.name for system in NOT_HOSTED}
    assert not names & {card.name for card in all_cards()}
    run_from_arguments(systems_parser().parse_args(["--json", "--all"]))
    cards = json.loads(capsys.readouterr().out)
    assert [card["name"] for card in cards if card.get("hosted") is False] == [system.name for system in NOT_HOSTED]
    for words, there in (([], False), (["--all"], True)):
        run_from_arguments(systems_parser().parse_args(words))
        assert (NOT_HOSTED[0].paper in capsys.readouterr().out) == there

"""The table of docs/choose_a_system.md says what the cards say."""

from __future__ import annotations

import re
from pathlib import Path

from twostage.config.finding import find_config
from twostage.systems.cards import all_cards

PAGE = Path(__file__).parents[2] / "docs" / "choose_a_system.md"
ROW = re.compile(r"^\| `([^`]+)` \| (\S+) \| (\S+) \| (\S+) \| \S+ \| \S+ \| ([^|]+) \|$", re.M)


def test_figures_rules_and_licences() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len(rows) > 10
    for config, a150, a847, rule, licence in rows:
        (card,) = (card for card in all_cards() if config in card.configs)
        assert licence == (card.code_licence or "not stated") and not card.weights_licence, config
        published = {
            (figures.miou.get("A-150"), figures.miou.get("A-847"), figures.rule or "-")
            for figures in card.figures
            if figures.setting == "transfer"
        }
        if a150 == "-":
            assert not published, config
        else:
            assert (float(a150), float(a847), rule) in published, config


def test_every_config_that_is_named_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = [name for name in re.findall(r"`([\w/]+)`", text) if "_" in name or "/" in name]
    assert len(names) > 20
    for name in names:
        find_config(name)

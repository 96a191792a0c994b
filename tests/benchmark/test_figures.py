"""Costs, ratios and stored ratios are what they say."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from twostage.benchmark.cost import Cost, added_memory, measured, median
from twostage.benchmark.ratios import read_stored, regressions, store
from twostage.benchmark.turns import ratio, take_turns
from twostage.commands.main import run
from twostage.errors import UserError


def cost(wall, processor=1.0, faults=0):
    return Cost(wall=wall, processor=processor, faults=faults)


def test_waiting_costs_the_clock_and_no_processor():
    waited = measured(lambda: time.sleep(0.05))
    assert waited.wall >= 0.05 and waited.processor < 0.04


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems don't tell")
def test_added_memory_is_what_a_run_holds():
    held = torch.zeros(64 * 2**20, dtype=torch.uint8)
    added = added_memory(lambda: torch.ones(32 * 2**20, dtype=torch.uint8))
    assert 30 * 2**20 < added < 60 * 2**20 and len(held)
    assert added_memory(lambda: None) < 4 * 2**20
    fresh = measured(lambda: torch.ones(32 * 2**20, dtype=torch.uint8))
    assert fresh.faults > 0


def test_every_step_has_its_turns_in_both_orders():
    calls = []
    contenders = [
        {"encode": lambda: calls.append("a"), "decode": lambda: calls.append("x")},
        {"encode": lambda: calls.append("b")},
    ]
    costs = take_turns(contenders, 2)
    assert "".join(calls) == "abxbax"
    assert [{name: len(turns) for name, turns in runs.items()} for runs in costs] == [
        {"encode": 2, "decode": 2},
        {"encode": 2},
    ]


def test_ratios_are_taken_turn_by_turn():
    """A slow moment that hits both leaves the ratio alone; medians of the two sides would say 3."""
    first, second = [cost(1.0), cost(2.0), cost(8.0)], [cost(2.0), cost(6.0), cost(16.0)]
    found = ratio(first, second, "wall")
    assert (found.median, found.low, found.high) == (2.0, 2.0, 3.0)
    assert median(second).wall == 6.0


def test_worse_ratios_are_named(tmp_path):
    path, setting = tmp_path / "ratios.json", {"size": "64x64", "threads": 1}
    store(path, setting, {"whole": 2.0, "decode": 1.0})
    stored = read_stored(path, setting)
    assert regressions(stored, {"whole": 2.3, "decode": 0.1}, 0.2) == []
    assert regressions(stored, {"whole": 2.5, "decode": 1.0}, 0.2) == ["whole: 2.50, was 2.00"]
    with pytest.raises(UserError, match="does not have"):
        regressions(stored, {"whole": 2.0}, 0.2)
    # A step that takes next to nothing may take several times that.
    store(path, setting, {"whole": 2.0, "decode": 0.0003})
    assert regressions(read_stored(path, setting), {"whole": 2.0, "decode": 0.002}, 0.2) == []
    with pytest.raises(UserError, match="threads 1, this run has 2"):
        read_stored(path, setting | {"threads": 2})
    for content in ("{}", "[]", '{"ratios": {"whole": "x"}, "setting": {}}', '{"ratios": [1], "setting": {}}'):
        path.write_text(content)
        with pytest.raises(UserError, match="no file of ratios"):
            read_stored(path, setting)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "0x3"], "--size is '0x3'; a side has 1 to 4096 pixels"),
        (["--output-size", "32"], "--output-size is '32'; give HEIGHTxWIDTH"),
        (["--classes", "5", "0"], "'0' is no number of things"),
        (["--repeats", "0"], "'0' is no number of things"),
        (["--check-ratios", "nowhere.json"], "'nowhere.json' is no file of ratios"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(options, said, monkeypatch):
    monkeypatch.setattr("twostage.commands.benchmark.take_turns", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match=said):
        run(["benchmark", "--system", "toybox/san", *options, "MODEL.CLIP.PRETRAINED", "", "MODEL.DEVICE", "cpu"])

"""A short part of the campaign: some inputs at every door, and what a trial counts as."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustness.campaign import DOORS, table
from robustness.trial import CANARY, Door, Trial, require, run_door, run_trial
from twostage.errors import UserError


@pytest.mark.parametrize("door", [door for door, _ in DOORS], ids=lambda door: door.name.replace(" ", "-"))
def test_door(door: Door, tmp_path: Path) -> None:
    outcomes = run_door(door, seed=1, count=6, folder=tmp_path)
    assert len(outcomes) >= 6
    assert [outcome for outcome in outcomes if outcome.verdict == "wrong"] == []


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        (lambda folder: None, "right"),
        (lambda folder: _raise(UserError("give another file")), "error"),
        (lambda folder: _raise(UserError("two\nlines")), "wrong"),
        (lambda folder: _raise(UserError("")), "wrong"),
        (lambda folder: _raise(KeyError("x")), "wrong"),
        (lambda folder: require(False, "another result"), "wrong"),
        (lambda folder: (folder / ".half.tmp").touch(), "wrong"),
        (lambda folder: (folder.parent / CANARY).touch(), "wrong"),
    ],
)
def test_verdicts(action, verdict: str, tmp_path: Path) -> None:
    assert run_trial("door", Trial("trial", action), tmp_path / "door").verdict == verdict


def test_a_process_that_dies_is_wrong_and_the_others_go_on(tmp_path: Path) -> None:
    import os

    door = Door(
        "dying",
        lambda rng, count: iter(
            [Trial("a", lambda f: None), Trial("b", lambda f: os._exit(3)), Trial("c", lambda f: None)]
        ),
    )
    outcomes = run_door(door, seed=0, count=3, folder=tmp_path)
    assert [outcome.verdict for outcome in outcomes] == ["right", "wrong", "right"]
    assert table(outcomes).splitlines()[-1].split("|")[2:6] == [
        "       3 ",
        "             0 ",
        "              2 ",
        "       1 ",
    ]

"""Finding a case's runner; cases are compared on one thread, then on two where that does not match."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conformance import running
from conformance.case import Case
from conformance.comparison import Comparison, compare_labels
from conformance.running import run, runners
from twostage.errors import UserError

CASE = Case(Path("case.json"), {"system": "Sun"}, {})


def _rows(*passed: bool) -> list[Comparison]:
    return [Comparison(name="x", difference=0.0, relative=0.0, passed=p) for p in passed]


def test_the_first_run_that_matches_is_taken():
    seen = []

    def check(case: Case) -> list[Comparison]:
        seen.append((torch.get_num_threads(), torch.rand(()).item()))
        return _rows(True, torch.get_num_threads() == 2)

    before = torch.get_num_threads()
    outcome = run(CASE, check)
    assert outcome.threads == 2 and outcome.passed
    # Each run starts from the same random numbers.
    assert [t for t, _ in seen] == [1, 2] and seen[0][1] == seen[1][1]
    assert torch.get_num_threads() == before
    assert run(CASE, lambda _: _rows(True)).threads == 1


def test_without_a_match_the_best_run_is_told():
    outcome = run(CASE, lambda _: _rows(torch.get_num_threads() == 1, False))
    assert outcome.threads == 1 and [row.passed for row in outcome.rows] == [True, False]
    assert not outcome.passed and len(outcome.failures) == 1


def test_nothing_compared_is_no_match():
    assert not run(CASE, lambda _: []).passed
    labels = torch.zeros(2, 2)
    own = run(CASE, lambda _: [compare_labels("label_map", labels, labels)])
    assert own.rows[0].passed and not own.passed and not own.compared_something


def test_what_was_not_compared_is_named():
    case = Case(Path("case.json"), {"weight_seed": 1, "mystery": 2, "note": "words"}, {"a": torch.zeros(2).numpy()})

    def check(case: Case) -> list[Comparison]:
        assert case.meta["weight_seed"] == 1
        case.skip("the optimizer's table")
        return case.compare_all({"b": torch.zeros(2)})

    assert run(case, check).left_out == [
        "skipped: the optimizer's table",
        "not compared: fields mystery",
        "not compared: arrays a",
    ]
    assert run(case, lambda c: c.compare_all({"a": torch.zeros(2)})).left_out[-1].startswith("not compared: fields")


def test_every_system_has_one_runner_and_others_are_named():
    assert {"SAN", "Mask2Former", "ovseg", "SCAN", "FC-CLIP", "CAT-Seg", "SED", "SegCLIP"} <= set(runners())
    assert {"SCLIP", "NACLIP", "MaskCLIP", "MaskCLIP+"} <= set(runners())
    with pytest.raises(UserError, match="'Sun', which has no runner here"):
        running.check(CASE)
    assert running.system_of(Case(Path("/x/case.json"), {"system": "SCAN training"}, {})) == "SCAN"
    # A case that does not name its system has its folder's.
    assert (
        running.system_of(Case(Path("/x/my-ovseg-cases/case.json"), {"system": "my-ovseg-cases"}, {})).lower()
        == "ovseg"
    )

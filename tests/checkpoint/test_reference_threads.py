"""Cases are compared on one thread, then on two where that does not match."""

from __future__ import annotations

from pathlib import Path

import torch
from conformance.case import Case, Comparison, check_on_threads

CASE = Case(Path("case.json"), {}, {})


def _rows(*passed: bool) -> list[Comparison]:
    return [Comparison(name="x", shape=(), difference=0.0, relative=0.0, passed=p) for p in passed]


def test_the_first_run_that_matches_is_taken():
    seen = []

    def check(case: Case) -> list[Comparison]:
        seen.append((torch.get_num_threads(), torch.rand(()).item()))
        return _rows(True, torch.get_num_threads() == 2)

    before = torch.get_num_threads()
    rows, threads = check_on_threads(check, CASE)
    assert threads == 2 and all(row.passed for row in rows)
    # Each run starts from the same random numbers.
    assert [t for t, _ in seen] == [1, 2] and seen[0][1] == seen[1][1]
    assert torch.get_num_threads() == before
    assert check_on_threads(lambda _: _rows(True), CASE)[1] == 1


def test_without_a_match_the_best_run_is_told():
    rows, threads = check_on_threads(lambda _: _rows(torch.get_num_threads() == 1, False), CASE)
    assert threads == 1 and [row.passed for row in rows] == [True, False]

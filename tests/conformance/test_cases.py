"""The reference cases that lie in the repository: seeded runs of the authors' code, compared array by array.

The bigger cases lie beside the repository and are run by `tools/check_reference.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.case import Case
from conformance.comparison import format_comparisons
from conformance.running import run

CASES = Path(__file__).with_name("cases")
PATHS = sorted([*CASES.glob("*/public-*.json"), *CASES.glob("*/own-*.json")])


@pytest.mark.parametrize("path", [pytest.param(p, id=f"{p.parent.name}-{p.stem}") for p in PATHS])
def test_case(path):
    outcome = run(Case.read(path))
    assert outcome.passed, "\n" + format_comparisons(outcome.failures)
    assert not outcome.left_out

"""What the committed figures of the memory planner must say. Nothing is measured here."""

from __future__ import annotations

import pytest

from tests.bench.memory import WITHIN, cases
from tests.bench.readme import read

RESULT = read("memory.json")
LEAST, SHARE = 20, 0.9
"""Configurations that must be within the tolerance, and the share of all that are measured."""


def test_most_plans_are_what_mlx_needs() -> None:
    assert RESULT["tolerance"] == WITHIN
    good = sum(abs(outcome["ratio"] - 1) <= WITHIN for outcome in RESULT["outcomes"])
    assert good == RESULT["within"]
    assert good >= max(LEAST, SHARE * len(RESULT["outcomes"]))


@pytest.mark.parametrize("what", ["method", "rows", "branch", "checkpointing", "vocabulary"])
def test_they_were_measured_over_everything_that_memory_depends_on(what: str) -> None:
    assert len({outcome["case"][what] for outcome in RESULT["outcomes"]}) > 1
    assert {outcome["name"] for outcome in RESULT["outcomes"]} == {case.name for case in cases()}

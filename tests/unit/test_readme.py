"""The README's figures are those of the result files."""

from __future__ import annotations

from tests.bench.readme import README, render


def test_figures_come_from_the_files() -> None:
    text = README.read_text(encoding="utf-8")
    assert render(text) == text, "run `python -m tests.bench.readme`"

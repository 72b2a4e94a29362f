"""What the committed figures must say, however often they are measured again. Nothing is timed here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.peers.cells import headline, sweep
from tests.bench.peers.contenders import OURS
from tests.bench.readme import read

CELLS: dict[str, dict[str, Any]] = read("peers.json")["cells"]
HEADLINE = {
    "orpo": {"mlx-lm-lora": 2.0, "unsloth": 1.8},
    "simpo": {"mlx-lm-lora": 2.0, "unsloth": 1.8},
    "dpo": {"mlx-lm-lora": 2.5, "unsloth": 2.0},
}
LONG = 3.0
"""Times as fast as mlx-lm-lora with prompts of 1,000 tokens."""
MEMORY = {False: 1 / 3, True: 1 / 5}
"""Share of mlx-lm-lora's memory at the large vocabulary, without and with checkpointing."""
LARGE = 151_936


def test_the_headline_and_the_sweep_are_whole() -> None:
    assert {cell.name for cell in [*headline(), *sweep()]} <= CELLS.keys()


@pytest.mark.parametrize("name", CELLS)
def test_every_arm_ran_and_is_equivalent(name: str) -> None:
    verdicts = {arm: found["gate"]["verdict"] for arm, found in CELLS[name]["arms"].items()}
    assert set(verdicts.values()) == {"equivalent"}, verdicts
    assert {"ours", "mlx-lm-lora", "unsloth", "trl"} <= set(verdicts)
    assert all(len(arm["whole_rate"]["all"]) >= 5 for arm in CELLS[name]["arms"].values())


@pytest.mark.parametrize("name", CELLS)
def test_our_gradient_is_the_oracles(name: str) -> None:
    """Of whole sequences, one by one, without padding, chunks or a shared prefix, in float64."""
    for arm in CELLS[name]["arms"].keys() & set(OURS):
        assert CELLS[name]["arms"][arm]["gate"]["gradient"] <= 1e-5, arm


@pytest.mark.parametrize("method", HEADLINE)
def test_the_headlines_speed(method: str) -> None:
    ratios = CELLS[f"headline-{method}"]["ratios"]
    for peer, least in HEADLINE[method].items():
        assert ratios[peer]["whole"] >= least, peer


@pytest.mark.parametrize("method", HEADLINE)
def test_the_headlines_memory(method: str) -> None:
    assert CELLS[f"headline-{method}"]["ratios"]["mlx-lm-lora"]["memory"] <= MEMORY[False]


@pytest.mark.parametrize("name", CELLS)
def test_no_cell_is_slower_than_torch(name: str) -> None:
    assert CELLS[name]["ratios"]["trl"]["whole"] >= 1


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if cell["lengths"]["prompt"] == 1000])
def test_long_prompts(name: str) -> None:
    assert CELLS[name]["ratios"]["mlx-lm-lora"]["whole"] >= LONG


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if cell["shape"]["vocab"] == LARGE])
def test_memory_at_a_large_vocabulary(name: str) -> None:
    assert CELLS[name]["ratios"]["mlx-lm-lora"]["memory"] <= MEMORY[CELLS[name]["checkpointing"]]

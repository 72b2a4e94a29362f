"""How many updates a run has, and what each of them reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mlx_align.batch import Batch
from mlx_align.config import TrainConfig
from mlx_align.data import Example, collate
from mlx_align.engine import data as engine_data
from mlx_align.engine.data import RunData, fingerprint
from mlx_align.engine.evaluation import spread
from tests import support


def data(rows: int, method: str = "orpo", **train: Any) -> RunData:
    examples = support.examples()[:rows]
    return RunData(examples, examples[:3], TrainConfig(**train), support.objective(method))


@pytest.mark.parametrize(
    ("rows", "train", "steps"),
    [
        (10, {"epochs": 1.0, "batch_size": 2}, 5),
        (10, {"epochs": 1.0, "batch_size": 4}, 3),
        (10, {"epochs": 2.0, "batch_size": 4}, 6),
        (10, {"epochs": 0.5, "batch_size": 2}, 3),
        (10, {"epochs": 1.0, "batch_size": 2, "accumulate": 2}, 3),
        (10, {"epochs": 0.001, "batch_size": 2}, 1),
        (3, {"epochs": 1.0, "batch_size": 8, "accumulate": 4}, 1),
        (10, {"epochs": None, "steps": 7, "batch_size": 2, "accumulate": 4}, 7),
    ],
)
def test_total_steps(rows: int, train: dict[str, Any], steps: int) -> None:
    assert data(rows, **train).total_steps == steps


def test_an_epoch_reads_every_row_once_and_the_next_one_again() -> None:
    made = data(10, epochs=2.0, batch_size=4)
    epochs = [sorted(row for p in range(3 * e, 3 * e + 3) for row in made.batch(p).rows) for e in (0, 1)]
    assert epochs[0] == epochs[1] == sorted(example.name for example in support.examples()[:10])
    assert made.epoch(3) == 1.0
    assert made.epoch(5) == pytest.approx(5 / 3)


def test_a_windows_counts_are_those_of_its_batches() -> None:
    made = data(10, epochs=3.0, batch_size=3, accumulate=3)
    for step in range(4):
        batches = [made.batch(p) for p in range(3 * step, 3 * step + 3)]
        counts = made.window_counts(step)
        assert counts["odds"] == sum(batch.size for batch in batches)
        assert counts["nll"] == sum(float(batch.branch(batch.branch_mask, 0).sum()) for batch in batches)


def test_a_budget_of_tokens_decides_how_many_batches_an_epoch_has() -> None:
    made = data(16, epochs=2.0, batch_size=None, tokens_per_batch=1000, accumulate=2)
    batches = [made.batch(position) for position in range(made.end)]
    assert made.end % 2 == 0
    half = made.end // 2
    names = sorted(example.name for example in support.examples()[:16])
    for epoch in (batches[:half], batches[half:]):
        assert sorted(row for batch in epoch for row in batch.rows) == names
    assert all(batch.padded() <= 1000 for batch in batches)
    assert 1 < half < 16
    assert (made.epoch(half), made.total_steps, made.oversized) == (1.0, half, ())


def test_a_window_is_collated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = data(10, epochs=3.0, batch_size=3, accumulate=3)
    calls: list[int] = []

    def counting(examples: Sequence[Example], **options: Any) -> Batch:
        calls.append(len(examples))
        return collate(examples, **options)

    monkeypatch.setattr(engine_data, "collate", counting)
    made.window_counts(1)
    batches = [made.batch(position) for position in made.window(1)]
    assert calls == [batch.size for batch in batches]
    assert [batch.rows for batch in batches] == [
        data(10, epochs=3.0, batch_size=3, accumulate=3).batch(position).rows for position in made.window(1)
    ]


def test_evaluation_reads_each_held_out_row_once() -> None:
    made = data(10, batch_size=2)
    assert sorted(row for batch in made.eval_batches() for row in batch.rows) == sorted(
        example.name for example in support.examples()[:3]
    )
    assert RunData(support.examples(), (), TrainConfig(), support.objective("orpo")).eval_batches() == []


def test_the_fingerprint_sees_every_token_and_the_order() -> None:
    examples = list(support.examples()[:3])

    def changed(example: Example, **parts: Any) -> str:
        return fingerprint([replace(example, **parts), *examples[1:]])

    first = examples[0]
    chosen, rejected = first.branch_ids
    prints = {
        fingerprint(examples),
        fingerprint(examples[::-1]),
        fingerprint(examples[:2]),
        changed(first, prompt_ids=(*first.prompt_ids[:-1], 1)),
        changed(first, branch_ids=(rejected, chosen)),
        changed(first, branch_ids=((*chosen, rejected[0]), rejected[1:])),
    }
    assert len(prints) == 6
    assert changed(first, prompt_text="words do not matter, tokens do") == fingerprint(examples)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 16, 99])
def test_the_spread_are_spread_over_the_rows_and_always_the_same(count: int) -> None:
    examples = support.examples()
    chosen = spread(examples, count)
    assert len(chosen) == min(count, len(examples))
    assert len({example.name for example in chosen}) == len(chosen)
    assert chosen == spread(examples, count)
    if count > 1:
        assert (chosen[0], chosen[-1]) == (examples[0], examples[-1])
    assert spread([], 4) == []

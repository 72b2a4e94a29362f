"""The reference is the model as it was when the run started, scored once."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_align.batch import Batch
from mlx_align.config import TrainConfig
from mlx_align.data import Shape
from mlx_align.engine.reference import SAVE_SECONDS, Reference, ScoredSet, reference_logps, row_key
from mlx_align.engine.reference_cache import ReferenceCache, Trouble
from mlx_align.engine.reporter import Reporter
from mlx_align.events import Event, Phase, Step
from mlx_align.runs import STOP
from mlx_align.runs.shards import Shards
from tests import same_run, support

OnEvent = Callable[[Callable[[Event], None]], None]


@pytest.fixture
def scorings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each set that is scored with the reference."""
    calls: list[int] = []
    score = ScoredSet.score

    def counted(self: ScoredSet, *arguments: Any) -> None:
        calls.append(len(self.examples))
        score(self, *arguments)

    monkeypatch.setattr(ScoredSet, "score", counted)
    return calls


def stop_after_the_first_step(on_event: OnEvent, run: Any) -> None:
    def ask(event: Event) -> None:
        if isinstance(event, Step) and (event.step, event.attempt) == (1, 1):
            run.control.request(STOP)

    on_event(ask)


def test_a_resumed_run_does_not_score_again(
    tmp_path: Path, brief: dict[str, Any], scorings: list[int], on_event: OnEvent
) -> None:
    run = support.new_run(tmp_path / "runs", "dpo", **brief)
    stop_after_the_first_step(on_event, run)
    assert support.engine(run) == 130
    assert scorings == [2, 24], "held-out rows, then training rows"
    assert support.engine(run) == 0
    assert scorings == [2, 24]


def test_a_method_without_a_reference_scores_held_out_rows_only(
    tmp_path: Path, brief: dict[str, Any], scorings: list[int]
) -> None:
    run = support.new_run(tmp_path / "runs", "simpo", **brief)
    assert support.engine(run) == 0
    assert scorings == [2]


def test_continuing_from_an_adapter_its_policy_is_the_reference(
    tmp_path: Path, brief: dict[str, Any], on_event: OnEvent
) -> None:
    """Also after a resume, and although the original has gone by then."""
    first = support.new_run(tmp_path / "runs", "sft", **brief)
    assert support.engine(first) == 0
    start = tmp_path / "start"
    shutil.copytree(first.adapter, start)
    weights = load_file(start / "adapters.safetensors")
    save_file(support.disturbed(weights), start / "adapters.safetensors")
    options = {key: value for key, value in brief.items() if not key.startswith("adapter__")}
    options |= {"adapter__start": str(start), "optim__lr": 1e-3}
    undisturbed = support.new_run(tmp_path / "a", "dpo", **options, runs__cache=str(tmp_path / "other"))
    assert support.engine(undisturbed) == 0
    opening = undisturbed.state().steps[0]
    assert opening.loss == pytest.approx(math.log(2), rel=1e-6)
    assert undisturbed.state().evals[0].metrics["kl"] == pytest.approx(0.0, abs=1e-9)
    run = support.new_run(tmp_path / "b", "dpo", **options)
    stop_after_the_first_step(on_event, run)
    assert support.engine(run) == 130
    shutil.rmtree(start)
    assert support.engine(run) == 0
    same_run.assert_same(run, undisturbed)


def test_the_order_and_the_batches_do_not_matter() -> None:
    policy, examples = support.policy(), support.examples()[:7]
    results = [reference_logps(policy, examples, config=TrainConfig(batch_size=size)) for size in (1, 3, 7)]
    for example, *ways in zip(examples, *results, strict=True):
        for branch, *arrays in zip(example.branch_ids, *ways, strict=True):
            for array in arrays:
                assert array.shape == (len(branch),)
                np.testing.assert_allclose(array, arrays[0], atol=1e-5)


class Counting:
    """A policy that says for each token how many calls it has answered."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def logps(self, batch: Batch) -> np.ndarray:
        self.calls.append(batch.rows)
        return batch.branch_mask * np.float32(len(self.calls))


def told(rows: list[Any]) -> list[int]:
    """The call that each row was scored in, from a Counting policy."""
    return [int(row[0][0]) for row in rows]


def scored_set(examples: Any) -> ScoredSet:
    return ScoredSet.of(examples, TrainConfig(batch_size=2))


def score(policy: Any, known: dict[bytes, Any], examples: Any) -> list[int]:
    rows = scored_set(examples)
    rows.score(policy, known, lambda done, total: None)
    return told([known[key] for key in rows.keys])


def test_a_batch_is_left_out_only_if_all_its_rows_are_known() -> None:
    examples = sorted(support.examples()[:6], key=lambda example: example.length)
    policy, known = Counting(), dict[bytes, Any]()
    assert score(policy, known, examples) == [1, 1, 2, 2, 3, 3]
    assert score(policy, known, examples) == [1, 1, 2, 2, 3, 3]
    assert len(policy.calls) == 3
    del known[scored_set(examples).keys[3]]
    assert score(policy, known, examples) == [1, 1, 2, 4, 3, 3], "what is known keeps its value"
    assert policy.calls[3] == policy.calls[1], "the batch is the one that it always was"


def test_progress_counts_rows() -> None:
    seen: list[tuple[int, int]] = []
    scored_set(support.examples()[:5]).score(Counting(), {}, lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_a_row_that_comes_twice_in_one_shape_has_one_value() -> None:
    example = support.examples()[0]
    rows = [example, replace(example, name="elsewhere.jsonl:1")] * 2
    assert score(Counting(), {}, rows) == [1, 1, 1, 1]


def test_whatever_changes_the_values_changes_the_key() -> None:
    example = support.examples()[0]
    prompt, (first, second) = example.prompt_ids, example.branch_ids
    others = [
        example,
        replace(example, prompt_ids=(*prompt[:-1], prompt[-1] + 1)),
        replace(example, branch_ids=(second, first)),
        replace(example, branch_ids=(first,)),
        replace(example, prompt_ids=prompt[:-1], branch_ids=((prompt[-1], *first), second)),
        replace(example, branch_ids=((*first, second[0]), second[1:])),
    ]
    shapes = [Shape(2, 32, 16, 64), Shape(4, 32, 16, 64), Shape(2, 16, 32, 64), Shape(2, 32, 16, 128)]
    keys = [row_key(other, shape) for other in others for shape in shapes]
    assert len(set(keys)) == len(keys) == len(shapes) * len(others)


def keeper(
    tmp_path: Path, policy: Any, report: Reporter, clock: Callable[[], float] = lambda: 0.0
) -> Reference:
    trouble = Trouble(tmp_path / "cache", report)
    return Reference(
        policy,
        Shards(tmp_path / "reference"),
        ReferenceCache(tmp_path / "cache", "p", report, trouble),
        config=TrainConfig(batch_size=2),
        report=report,
        clock=clock,
    )


def test_a_pass_that_is_killed_has_kept_all_but_the_last_seconds(tmp_path: Path) -> None:
    now, kept = [0.0], list[int]()

    def watch(done: int, total: int) -> None:
        now[0] += 0.6 * SAVE_SECONDS
        kept.append(len(list((tmp_path / "reference").glob("*"))))

    examples = support.examples()[:10]
    keeper(tmp_path, Counting(), Reporter(lambda _: None), lambda: now[0]).logps(examples, progress=watch)
    assert kept == [0, 0, 1, 1, 2]
    rows = [len(Shards(tmp_path / folder).read(Anything())[0]) for folder in ("reference", "cache/p")]
    assert rows == [10, 10]


class Anything:
    def __contains__(self, key: object) -> bool:
        return True


def test_a_pass_that_was_ended_goes_on_where_it_was(tmp_path: Path) -> None:
    examples = sorted(support.examples()[:6], key=lambda example: example.length)
    policy, events = Counting(), list[Event]()

    def end(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keeper(tmp_path, policy, Reporter(events.append)).logps(examples, progress=end)
    shutil.rmtree(tmp_path / "cache")
    (rows,) = keeper(tmp_path, policy, Reporter(events.append)).logps(examples, progress=lambda *_: None)
    assert told(rows) == [1, 1, 2, 2, 3, 3]
    assert [event.detail for event in events if isinstance(event, Phase)] == [
        "scoring 6 rows with the model as it starts; 0 of 6 rows are in the cache",
        "scoring 2 rows with the model as it starts; 0 of 6 rows are in the cache",
    ]


def test_sets_without_rows(tmp_path: Path) -> None:
    assert keeper(tmp_path, Counting(), Reporter(lambda _: None)).logps([], [], progress=lambda *_: None) == (
        [],
        [],
    )

"""The reference is the model as it was when the run started, scored once."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_align.engine import reference
from mlx_align.errors import AlignError
from mlx_align.events import Event, Step
from mlx_align.runs import STOP
from tests import same_run, support

OnEvent = Callable[[Callable[[Event], None]], None]


@pytest.fixture
def scorings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each call that scores rows with the reference."""
    calls: list[int] = []
    score = reference.reference_logps

    def counted(policy: Any, examples: Any, **options: Any) -> Any:
        calls.append(len(examples))
        return score(policy, examples, **options)

    monkeypatch.setattr(reference, "reference_logps", counted)
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
    assert sorted(path.name for path in (run.path / "reference").iterdir()) == ["valid.safetensors"]


def test_continuing_from_an_adapter_its_policy_is_the_reference(
    tmp_path: Path, brief: dict[str, Any], on_event: OnEvent
) -> None:
    """Also after a resume, and although the original has gone by then."""
    first = support.new_run(tmp_path / "runs", "sft", **brief, optim__lr=1e-2)
    assert support.engine(first) == 0
    start = tmp_path / "start"
    shutil.copytree(first.adapter, start)
    options = {key: value for key, value in brief.items() if not key.startswith("adapter__")}
    options |= {"adapter__start": str(start), "optim__lr": 1e-3}
    undisturbed = support.new_run(tmp_path / "a", "dpo", **options)
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


@pytest.mark.parametrize("scores_prompt", [False, True])
def test_the_order_and_the_batches_do_not_matter(scores_prompt: bool) -> None:
    policy, examples = support.policy(), support.examples()[:7]
    seen: list[tuple[int, int]] = []
    results = [
        reference.reference_logps(
            policy,
            examples,
            batch_size=size,
            scores_prompt=scores_prompt,
            progress=lambda done, total: seen.append((done, total)),
        )
        for size in (1, 3, 7)
    ]
    assert seen[-1] == (7, 7)
    for example, *ways in zip(examples, *results, strict=True):
        for branch, *arrays in zip(example.branch_ids, *ways, strict=True):
            lead = len(example.prompt_ids) - 1 if scores_prompt else 0
            for array in arrays:
                assert array.shape == (lead + len(branch),)
                np.testing.assert_allclose(array, arrays[0], atol=1e-5)


def test_what_is_kept_is_what_was_computed(tmp_path: Path) -> None:
    examples = support.examples()[:3]
    rng = np.random.default_rng(0)
    made = [[rng.normal(size=len(b)).astype(np.float32) for b in e.branch_ids] for e in examples]
    reference.save(tmp_path / "reference", train=made, valid=[])
    back = reference.load(tmp_path / "reference", "train", examples)
    for want, got in zip(made, back, strict=True):
        for one, other in zip(want, got, strict=True):
            np.testing.assert_array_equal(one, other)
    assert reference.load(tmp_path / "reference", "valid", []) == []
    with pytest.raises(AlignError, match="of 3 rows, the data has 2"):
        reference.load(tmp_path / "reference", "train", examples[:2])

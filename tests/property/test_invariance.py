"""The same rows give the same gradient however they are batched, padded and accumulated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mlx_align.backends.base import Objective, Policy, State
from mlx_align.data import Example, collate
from tests import support

METHODS = [("sft", {}), ("orpo", {}), ("orpo", {"nll": "prompt+response"}), ("dpo", {}), ("simpo", {})]
N = 8


def gradient(
    policy: Policy, objective: Objective, groups: Sequence[Sequence[Example]], pad_to: int = 16
) -> tuple[State, float]:
    """The gradient and loss of one window whose micro-batches are `groups`."""
    rng = np.random.default_rng(3)
    scores_prompt = objective.method.scores_prompt(objective.hp)
    ref = {
        example.name: [rng.normal(-1, 0.1, len(branch)).astype(np.float32) for branch in example.branch_ids]
        for example in sorted((e for group in groups for e in group), key=lambda e: e.name)
    }
    batches = [
        collate(group, scores_prompt=scores_prompt, ref_logps=[ref[e.name] for e in group], pad_to=pad_to)
        for group in groups
    ]
    counts: dict[str, float] = {}
    for batch in batches:
        for term, count in objective.method.counts(batch, objective.hp).items():
            counts[term] = counts.get(term, 0.0) + count
    loss = 0.0
    for batch in batches:
        scores = policy.accumulate(batch, objective, counts, seed=0)
        loss += sum(value / counts[term] for term, value in scores.sums.items())
    state = {k: v for k, v in policy.training_state().items() if k.startswith("gradient.")}
    policy.discard()
    return state, loss


@pytest.mark.parametrize(("name", "hp"), METHODS)
def test_gradient_does_not_depend_on_the_batching(name: str, hp: dict[str, str]) -> None:
    objective = support.objective(name, **hp)
    policy = support.policy()
    rows = support.examples(objective.method.rows)[:N]
    expected, loss = gradient(policy, objective, [rows])
    assert all(np.abs(value).max() > 0 for value in expected.values())
    ways = {
        "one by one": ([[row] for row in rows], 16),
        "uneven": ([rows[:5], rows[5:6], rows[6:]], 16),
        "other order": ([rows[::-1][:3], rows[::-1][3:]], 16),
        "much padding": ([rows], 128),
        "no padding": ([[row] for row in rows], 1),
    }
    for way, (groups, pad_to) in ways.items():
        got, other = gradient(policy, objective, groups, pad_to)
        assert other == pytest.approx(loss, rel=1e-5), way
        for key, value in expected.items():
            error = np.abs(got[key] - value).max() / np.abs(value).max()
            assert error < 1e-5, f"{way}: {key} differs by {error:.1e}"


def test_padding_has_no_log_probability() -> None:
    batch = collate(support.examples()[:3], pad_to=64)
    logps = support.policy().logps(batch)
    assert (logps[batch.branch_mask == 0] == 0).all()
    assert (logps[batch.branch_mask == 1] <= 0).all()


def test_logps_are_those_of_the_single_sequence() -> None:
    """Each branch alone, unpadded, through the bare model: sum over its tokens of log softmax."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    from mlx_align import embedded

    model, _ = load_model(embedded.model_folder())
    batch = collate(support.examples()[:4])
    backend_policy = support.policy()
    state = backend_policy.adapter_state()
    backend_policy.load_adapter_state(
        {k: np.zeros_like(v) if k.endswith("lora_b") else v for k, v in state.items()}
    )
    logps = backend_policy.logps(batch)
    for index, example in enumerate(support.examples()[:4]):
        for which, branch in enumerate(example.branch_ids):
            ids = mx.array([[*example.prompt_ids, *branch]])
            logits = np.array(model(ids[:, :-1]))[0].astype(np.float64)
            top = logits.max(-1, keepdims=True)
            table = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
            start = len(example.prompt_ids) - 1
            want = [table[start + t, token] for t, token in enumerate(branch)]
            np.testing.assert_allclose(logps[index * 2 + which, : len(branch)], want, atol=1e-4)

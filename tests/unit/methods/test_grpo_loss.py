"""GRPO's loss, value and gradient, against the float64 oracle; and what it promises to the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mlx_align import methods
from mlx_align.backends.torch.ops import TorchOps
from mlx_align.batch import Batch
from mlx_align.methods.grpo import GrpoHyperparameters, counts, loss, overlong_penalty
from tests import oracle
from tests.unit.methods.test_losses import FRAMEWORKS

METHOD = methods.get("grpo")
LENGTH = 50
GROUP = 4

LOSS_TYPES: dict[str, tuple[dict[str, Any], oracle.Clip]] = {
    "grpo": ({}, oracle.Clip(0.2, 0.2)),
    "bnpo": ({}, oracle.Clip(0.2, 0.2)),
    "dapo": ({}, oracle.Clip(0.2, 0.28)),
    "dr_grpo": ({"length": LENGTH}, oracle.Clip(0.2, 0.2)),
    "gspo": ({}, oracle.Clip(3e-4, 4e-4)),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "kl": {"beta": 0.1},
    "kl, weighted": {"beta": 0.1, "unbiased_kl": True},
    "own clip": {"epsilon": 0.1, "epsilon_high": 0.5},
    "no lower bound": {"epsilon": 10.0},
    "two-sided": {"delta": 2.0},
    "two-sided, kl": {"delta": 2.0, "beta": 0.001},
}
CASES = [
    pytest.param(loss_type, option, id=f"{loss_type}-{option}")
    for loss_type in LOSS_TYPES
    for option in OPTIONS
    if (loss_type, option) != ("gspo", "kl, weighted")
]
FAR = [-2.0, -0.5, -0.15, 0.0, 0.1, 0.22, 0.35, 0.6, 1.5]
"""Log-ratios on every side of every bound, and on none: 0.8, 0.9, 1.2, 1.28, 1.5 and 2."""
NEAR = [-1e-3, -2e-4, 0.0, 2e-4, 3.5e-4, 1e-3, 0.3, 0.9]
"""The same for a whole answer's mean under gspo."""


def given(loss_type: str, option: str) -> tuple[GrpoHyperparameters, dict[str, Any]]:
    """Our hyperparameters, and the same for the oracle."""
    own, clip = LOSS_TYPES[loss_type]
    chosen = OPTIONS[option]
    hp = GrpoHyperparameters(loss_type=loss_type, group_size=GROUP, **own, **chosen)
    clip = replace(
        clip,
        low=chosen.get("epsilon", clip.low),
        high=chosen.get("epsilon_high", chosen.get("epsilon", clip.high)),
        delta=chosen.get("delta", np.inf),
    )
    return hp, {
        "loss_type": loss_type,
        "clip": clip,
        "beta": hp.beta,
        "weighted_kl": hp.unbiased_kl,
        "length": own.get("length"),
    }


def some_answers(rng: np.random.Generator, rows: int, loss_type: str) -> list[oracle.Answer]:
    """Groups of ragged answers, one in five of them left out of the loss; float32 holds every number."""

    def rounded(x: Any) -> np.ndarray:
        return np.asarray(x, np.float32).astype(np.float64)

    answers = []
    for _ in range(rows * GROUP):
        n = int(rng.choice([1, 2, 7, 33]))
        logps = rounded(-rng.exponential(1.0, n) - 1e-3)
        log_ratio = rng.choice(FAR, n)
        if loss_type == "gspo":
            log_ratio = log_ratio - log_ratio.mean() + rng.choice(NEAR)
        answers.append(
            oracle.Answer(
                logps=logps,
                old=rounded(logps - log_ratio),
                ref=rounded(logps + rng.normal(0, 0.5, n)),
                advantage=float(rounded(rng.normal())),
                counted=bool(rng.random() > 0.2),
            )
        )
    answers[0].counted = True
    return answers


def to_batch(answers: list[oracle.Answer], rows: int) -> tuple[Batch, np.ndarray]:
    """A padded batch with junk in its padding, which no loss may see."""
    width = max(len(answer.logps) for answer in answers) + 3
    n = len(answers)
    logps, old, ref = (np.full((n, width), junk) for junk in (-77.0, -999.0, 99.0))
    mask, response = np.zeros((n, width)), np.zeros((n, width))
    for index, answer in enumerate(answers):
        length = len(answer.logps)
        logps[index, :length], old[index, :length], ref[index, :length] = answer.logps, answer.old, answer.ref
        mask[index, :length] = 1
        response[index, :length] = float(answer.counted)
    batch = Batch(
        prompt_ids=np.zeros((rows, 4), np.int32),
        prompt_lens=np.full(rows, 4, np.int32),
        branch_ids=np.zeros((n, width), np.int32),
        branch_mask=mask,
        response_mask=response,
        branch_row=np.repeat(np.arange(rows), n // rows),
        scored=np.flatnonzero(mask),
        ref_logps=ref,
        rows=tuple(f"row {i}" for i in range(rows)),
        advantages=np.array([answer.advantage for answer in answers]),
        old_logps=old,
    )
    return batch, logps


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def evaluated(
    framework: str, hp: GrpoHyperparameters, batch: Batch, logps: np.ndarray, dtype: str = "float64"
) -> tuple[float, np.ndarray]:
    value, gradient = FRAMEWORKS[framework](METHOD, hp, batch, logps, dtype)
    assert not gradient[batch.branch_mask == 0].any(), "a gradient reached the padding"
    return value, gradient


def metrics_of(hp: GrpoHyperparameters, batch: Batch, logps: np.ndarray) -> dict[str, np.ndarray]:
    arrays = batch.map(torch.tensor)
    found = loss(TorchOps(), torch.tensor(logps), arrays.ref_logps, arrays, hp).metrics
    return {name: value.numpy() for name, value in found.items()}


# The formula


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("loss_type", "option"), CASES)
def test_value_and_gradient_are_the_oracles(framework: str, loss_type: str, option: str, seed: int) -> None:
    hp, same = given(loss_type, option)
    answers = some_answers(np.random.default_rng(seed), 3, loss_type)
    expected, slopes = oracle.grpo(answers, **same)
    batch, logps = to_batch(answers, 3)
    scale = max(float(np.abs(slope).max()) for slope in slopes)
    for dtype, value_tolerance in (("float64", 1e-7), ("float32", 1e-6)):  # MLX: a bound is a float32
        value, gradient = evaluated(framework, hp, batch, logps, dtype)
        assert value == pytest.approx(expected, rel=value_tolerance, abs=value_tolerance)
        for index, slope in enumerate(slopes):
            np.testing.assert_allclose(
                gradient[index, : len(slope)], slope, rtol=1e-5, atol=1e-6 * scale, err_msg=dtype
            )


@pytest.mark.parametrize(("loss_type", "option"), CASES)
def test_the_oracles_derivative_is_that_of_its_value(loss_type: str, option: str) -> None:
    _, same = given(loss_type, option)
    answers = some_answers(np.random.default_rng(5), 1, loss_type)
    _, slopes = oracle.grpo(answers, **same)
    for answer, slope in zip(answers, slopes, strict=True):
        for t in range(min(3, len(slope))):
            sides = []
            for step in (1e-6, -2e-6):
                answer.logps[t] += step
                sides.append(oracle.grpo(answers, **same)[0])
            answer.logps[t] += 1e-6
            assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(slope[t], rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_without_old_log_probabilities_the_policy_itself_has_sampled(framework: str, loss_type: str) -> None:
    hp, same = given(loss_type, "kl")
    answers = some_answers(np.random.default_rng(3), 2, loss_type)
    for answer in answers:
        answer.old = answer.logps
    expected, slopes = oracle.grpo(answers, **same)
    batch, logps = to_batch(answers, 2)
    value, gradient = evaluated(framework, hp, replace(batch, old_logps=None), logps)
    assert value == pytest.approx(expected, rel=1e-9)
    for index, slope in enumerate(slopes):
        np.testing.assert_allclose(gradient[index, : len(slope)], slope, rtol=1e-9, atol=1e-12)
    assert any(slope.any() for slope in slopes)


def test_a_weighted_kl_term_pulls_towards_the_reference_without_bias() -> None:
    """Averaged over what the policy samples, its gradient is the divergence's; plain K3's is another."""
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=6), requires_grad=True)
    ref = torch.log_softmax(torch.tensor(rng.normal(size=6)), -1)
    policy = torch.log_softmax(logits, -1)
    (exact,) = torch.autograd.grad((policy.exp() * (policy - ref)).sum(), logits, retain_graph=True)
    answers = [oracle.Answer(np.zeros(1), np.zeros(1), np.zeros(1), 0.0) for _ in range(6)]
    batch, _ = to_batch(answers, 1)
    found = {}
    for unbiased in (True, False):
        hp = GrpoHyperparameters(loss_type="grpo", beta=1.0, unbiased_kl=unbiased)
        slopes = []
        for token in range(6):
            row = torch.zeros(6, 4, dtype=torch.float64)
            row[:, 0] = policy[token]
            arrays = replace(
                batch.map(torch.tensor), old_logps=None, branch_mask=torch.tensor(batch.branch_mask)
            )
            target = torch.full((6, 4), float(ref[token]), dtype=torch.float64)
            value = loss(TorchOps(), row, target, arrays, hp).sums["loss"] / 6
            slopes.append(torch.autograd.grad(value, logits, retain_graph=True)[0])
        found[unbiased] = sum(p * slope for p, slope in zip(policy.exp().detach(), slopes, strict=True))
    torch.testing.assert_close(found[True], exact)
    assert (found[False] - exact).abs().max() > 0.01


# What the engine builds on


@pytest.mark.parametrize("option", ["kl", "two-sided"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_group_may_be_computed_in_parts(framework: str, loss_type: str, option: str) -> None:
    """Sums add up, gradients stand side by side, and metrics are means weighted by branches."""
    hp, _ = given(loss_type, option)
    rows = 3
    batch, logps = to_batch(some_answers(np.random.default_rng(1), rows, loss_type), rows)
    denominator = counts(batch, hp)["loss"]
    whole, gradient = evaluated(framework, hp, batch, logps)
    parts, metrics = 0.0, {}
    for chosen in ([0], [1, 2, 3]):
        picked = np.array([row * GROUP + branch for row in range(rows) for branch in chosen])
        per_branch = ("branch_ids", "branch_mask", "response_mask", "branch_row", "ref_logps", "advantages",
                      "old_logps")  # fmt: skip
        part = replace(batch, **{name: getattr(batch, name)[picked] for name in per_branch})
        value, slopes = evaluated(framework, hp, part, logps[picked])
        share = counts(part, hp)["loss"] / denominator
        parts += value * share
        np.testing.assert_allclose(slopes * share, gradient[picked], rtol=1e-9, atol=1e-15)
        for name, values in metrics_of(hp, part, logps[picked]).items():
            metrics[name] = metrics.get(name, 0) + values * len(chosen) / GROUP
    assert parts == pytest.approx(whole, rel=1e-9)
    for name, values in metrics_of(hp, batch, logps).items():
        np.testing.assert_allclose(metrics[name], values, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_advantages_of_zero_move_nothing(framework: str, loss_type: str, dtype: str) -> None:
    """Exactly nothing, also where a ratio is too large for float32."""
    hp, _ = given(loss_type, "two-sided")
    batch, logps = to_batch(some_answers(np.random.default_rng(2), 2, loss_type), 2)
    batch = replace(batch, advantages=batch.advantages * 0)
    for shift in (0.0, 300.0, -300.0):
        value, gradient = evaluated(framework, hp, replace(batch, old_logps=logps + shift), logps, dtype)
        assert value == 0.0
        assert not gradient.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("far", [1e-6, 50.0, 88.0, 300.0])
def test_far_from_the_sampling_policy_it_stays_finite(
    framework: str, loss_type: str, dtype: str, far: float
) -> None:
    hp, _ = given(loss_type, "two-sided, kl")
    batch, logps = to_batch(some_answers(np.random.default_rng(2), 2, loss_type), 2)
    signs = np.where(np.arange(len(logps)) % 2, 1.0, -1.0)[:, None]
    batch = replace(batch, old_logps=logps + far * signs, ref_logps=logps - far * signs)
    value, gradient = evaluated(framework, hp, batch, logps, dtype)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_an_answer_that_is_left_out_still_counts_where_answers_are_counted() -> None:
    answers = some_answers(np.random.default_rng(0), 1, "grpo")
    for answer, n, counted in zip(answers, (3, 5, 2, 4), (True, False, True, True), strict=True):
        answer.logps, answer.old, answer.ref = (np.zeros(n) for _ in range(3))
        answer.counted = counted
    batch, _ = to_batch(answers, 1)
    expected = {"grpo": 4, "gspo": 4, "bnpo": 9, "dapo": 9, "dr_grpo": 4 * LENGTH}
    for loss_type, want in expected.items():
        assert counts(batch, given(loss_type, "plain")[0]) == {"loss": want}
    assert [given(name, "plain")[0].counts_rollout for name in expected] == [
        name == "dapo" for name in expected
    ]


def test_metrics_are_per_row() -> None:
    """One row, two answers of two and four tokens; the shares are of tokens, the mean is over answers."""
    answers = [
        oracle.Answer(np.full(2, -1.0), np.array([-1.5, -1.0]), np.full(2, -1.0), 1.0),
        oracle.Answer(np.full(4, -3.0), np.array([-2.0, -3.0, -3.0, -5.0]), np.full(4, -2.0), -1.0, False),
    ]
    batch, logps = to_batch(answers, 1)
    found = metrics_of(GrpoHyperparameters(loss_type="grpo", beta=0.5), batch, logps)
    assert {name: value.tolist() for name, value in found.items()} == {
        "clip_high": [pytest.approx((1 / 2 + 0) / 2)],
        "clip_low": [pytest.approx((0 + 1 / 4) / 2)],
        "entropy": [pytest.approx((1.0 + 3.0) / 2)],
        "kl": [pytest.approx((0 + np.e - 2) / 2)],
    }
    assert "kl" not in metrics_of(GrpoHyperparameters(), batch, logps)


def test_what_it_needs_is_asked_for() -> None:
    batch, logps = to_batch(some_answers(np.random.default_rng(0), 1, "grpo"), 1)
    with pytest.raises(ValueError, match="advantages"):
        loss(TorchOps(), logps, None, replace(batch, advantages=None), GrpoHyperparameters())
    arrays, hp = batch.map(torch.tensor), GrpoHyperparameters(beta=0.1)
    with pytest.raises(ValueError, match="ref_logps"):
        loss(TorchOps(), torch.tensor(logps), None, arrays, hp)
    assert METHOD.needs_reference(hp)
    assert not METHOD.needs_reference(GrpoHyperparameters())
    assert METHOD.branches(GrpoHyperparameters(group_size=3)) == 3


# Hyperparameters


@pytest.mark.parametrize(
    ("given", "clip"),
    [
        ({"loss_type": "grpo"}, (0.2, 0.2)),
        ({"loss_type": "bnpo"}, (0.2, 0.2)),
        ({"loss_type": "dr_grpo"}, (0.2, 0.2)),
        ({"loss_type": "dapo"}, (0.2, 0.28)),
        ({"loss_type": "gspo"}, (3e-4, 4e-4)),
        ({"loss_type": "dapo", "epsilon": 0.1}, (0.1, 0.1)),
        ({"loss_type": "dapo", "epsilon_high": 0.4}, (0.2, 0.4)),
        ({"loss_type": "grpo", "epsilon": 0.3, "epsilon_high": 0.1}, (0.3, 0.1)),
        ({"loss_type": "grpo", "epsilon": 10}, (10, 10)),
    ],
)
def test_the_clip_is_the_loss_types_own_unless_it_is_set(
    given: dict[str, Any], clip: tuple[float, float]
) -> None:
    assert GrpoHyperparameters(**given).clip == clip


def test_rewards_are_scaled_by_the_group_except_in_dr_grpo() -> None:
    assert [GrpoHyperparameters(loss_type=name).scaling for name in LOSS_TYPES] == [
        "none" if name == "dr_grpo" else "group" for name in LOSS_TYPES
    ]
    assert GrpoHyperparameters(loss_type="dr_grpo", scale_rewards="batch").scaling == "batch"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"delta": 1.28}, "above 1 \\+ epsilon_high, here 1.28"),
        ({"loss_type": "grpo", "epsilon": 0.5, "delta": 1.4}, "here 1.5"),
        ({"unbiased_kl": True}, "beta is 0"),
        ({"unbiased_kl": True, "beta": 0.1, "loss_type": "gspo"}, "one for an answer"),
        ({"length": 9}, "no meaning with loss_type 'dapo'"),
        ({"length": 9, "overlong_buffer": 10}, "longer than the longest answer, 9 tokens"),
        ({"group_size": 1}, "greater than or equal to 2"),
        ({"epsilon": 0}, "greater than 0"),
        ({"beta": -0.1}, "greater than or equal to 0"),
        ({"temperature": 1.0}, "Extra inputs"),
    ],
)
def test_what_has_no_meaning_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GrpoHyperparameters(**given)


def test_the_length_is_the_samplings_where_it_is_used() -> None:
    hp = GrpoHyperparameters(loss_type="dr_grpo")
    assert hp.for_sampling(64).length == 64
    assert GrpoHyperparameters(loss_type="dr_grpo", length=7).for_sampling(64).length == 7
    assert GrpoHyperparameters(overlong_buffer=16).for_sampling(64).length == 64
    assert GrpoHyperparameters(beta=0.5).for_sampling(64) == GrpoHyperparameters(beta=0.5)
    with pytest.raises(ValidationError, match="overlong_buffer"):
        GrpoHyperparameters(overlong_buffer=65).for_sampling(64)
    batch, _ = to_batch(some_answers(np.random.default_rng(0), 1, "grpo"), 1)
    with pytest.raises(ValueError, match="length"):
        counts(batch, hp)


@pytest.mark.parametrize(
    ("tokens", "penalty"), [(1, 0), (80, 0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1), (130, -1)]
)
def test_the_overlong_penalty_grows_over_the_buffer(tokens: int, penalty: float) -> None:
    assert overlong_penalty(tokens, length=100, buffer=20) == pytest.approx(penalty)

"""Every loss, value and gradient, against the float64 oracle: in MLX's operations and in torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_align import methods
from mlx_align.backends.mlx.ops import MlxOps
from mlx_align.backends.torch.ops import TorchOps
from mlx_align.batch import Batch
from mlx_align.methods import Hyperparameters, Method
from tests import oracle

Losses = Callable[[list[oracle.Row]], tuple[float, list[list[np.ndarray]]]]

CASES: dict[str, tuple[str, dict[str, Any], Losses]] = {
    "sft": ("sft", {}, oracle.sft),
    "orpo": ("orpo", {}, lambda rows: oracle.orpo(rows, 0.1)),
    "orpo strong": ("orpo", {"beta": 2.0}, lambda rows: oracle.orpo(rows, 2.0)),
    "orpo like TRL": ("orpo", {"nll": "prompt+response"}, lambda rows: oracle.orpo(rows, 0.1)),
    "dpo": ("dpo", {}, lambda rows: oracle.dpo(rows, 0.1, "sigmoid")),
    "dpo smoothed": (
        "dpo",
        {"label_smoothing": 0.2, "beta": 0.5},
        lambda rows: oracle.dpo(rows, 0.5, "sigmoid", 0.2),
    ),
    "dpo ipo": ("dpo", {"loss_type": "ipo"}, lambda rows: oracle.dpo(rows, 0.1, "ipo")),
    "dpo hinge": ("dpo", {"loss_type": "hinge"}, lambda rows: oracle.dpo(rows, 0.1, "hinge")),
    "simpo": ("simpo", {}, lambda rows: oracle.simpo(rows, 2.0, 1.0)),
    "simpo like TRL": ("simpo", {"beta": 0.1, "gamma": 0.5}, lambda rows: oracle.simpo(rows, 0.1, 0.5)),
}


PROMPT = 9
"""P, padding included."""


def to_batch(rows: list[oracle.Row], width: int) -> tuple[Batch, np.ndarray]:
    """A padded batch with junk log-probabilities in its padding, which no loss may see."""
    k = len(rows[0].branches)
    n = len(rows) * k
    logps, ref = np.full((n, width), -77.0), np.full((n, width), -55.0)
    of_prompts, prompt_mask = np.full((len(rows), PROMPT), -33.0), np.zeros((len(rows), PROMPT))
    mask = np.zeros((n, width))
    for index, row in enumerate(rows):
        of_prompts[index, 1 : row.lead + 1] = row.branches[0][: row.lead]
        prompt_mask[index, 1 : row.lead + 1] = 1
        for which in range(k):
            length = len(row.branches[which]) - row.lead
            logps[index * k + which, :length] = row.branches[which][row.lead :]
            ref[index * k + which, :length] = row.ref[which][row.lead :]
            mask[index * k + which, :length] = 1
    scored = any(row.lead for row in rows)
    batch = Batch(
        prompt_ids=np.zeros((len(rows), PROMPT), np.int32),
        prompt_lens=np.full(len(rows), 4, np.int32),
        branch_ids=np.zeros((n, width), np.int32),
        branch_mask=mask,
        response_mask=mask,
        branch_row=np.repeat(np.arange(len(rows)), k),
        scored=np.flatnonzero(mask),
        ref_logps=ref,
        rows=tuple(f"row {i}" for i in range(len(rows))),
        prompt_mask=prompt_mask if scored else None,
    )
    grids = [logps, of_prompts] if scored else [logps]
    return batch, np.concatenate([grid.reshape(-1) for grid in grids])


def by_mlx(
    method: Method, numbers: Hyperparameters, batch: Batch, grid: np.ndarray, dtype: str
) -> tuple[float, np.ndarray]:
    kind, counts = getattr(mx, dtype), method.counts(batch, numbers)
    arrays = batch.map(lambda x: mx.array(x, dtype=kind) if x.dtype.kind == "f" else mx.array(x))

    def objective(x: mx.array) -> mx.array:
        logps, told = arrays.with_logps(x)
        loss = method.loss(MlxOps(), logps, told.ref_logps, told, numbers)
        return sum(loss.sums[term] / counts[term] for term in loss.sums)

    with mx.stream(mx.cpu):  # float64 exists on the CPU only
        value, gradient = mx.value_and_grad(objective)(mx.array(grid, dtype=kind))
        mx.eval(value, gradient)
        return value.item(), np.array(gradient)


def by_torch(
    method: Method, numbers: Hyperparameters, batch: Batch, grid: np.ndarray, dtype: str
) -> tuple[float, np.ndarray]:
    kind, counts = getattr(torch, dtype), method.counts(batch, numbers)
    arrays = batch.map(lambda x: torch.tensor(x, dtype=kind) if x.dtype.kind == "f" else torch.tensor(x))
    x = torch.tensor(grid, dtype=kind, requires_grad=True)
    logps, told = arrays.with_logps(x)
    loss = method.loss(TorchOps(), logps, told.ref_logps, told, numbers)
    value = sum(loss.sums[term] / counts[term] for term in loss.sums)
    (gradient,) = torch.autograd.grad(value, x)
    return value.item(), gradient.numpy()


FRAMEWORKS = {"mlx": by_mlx, "torch": by_torch}


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def value_and_gradient(
    framework: str, name: str, hp: dict[str, Any], rows: list[oracle.Row], dtype: str
) -> tuple[float, list[list[np.ndarray]]]:
    method = methods.get(name)
    width = max(len(branch) for row in rows for branch in row.branches) + 3
    batch, grid = to_batch(rows, width)
    value, by_grid = FRAMEWORKS[framework](method, method.hyperparameters(**hp), batch, grid, dtype)
    by_logps, told = batch.with_logps(by_grid)
    assert not by_logps[batch.branch_mask == 0].any(), "a gradient reached the padding"
    if batch.prompt_mask is None:
        by_prompts = np.zeros((batch.size, PROMPT))
    else:
        by_prompts = told.prompt_logps
        assert not by_prompts[batch.prompt_mask == 0].any(), "a gradient reached what is not scored"

    def of_branch(index: int, which: int) -> np.ndarray:
        """As the oracle has it: the prompt's before the first branch's, and none before the others'."""
        row = rows[index]
        own = by_logps[index * batch.branches + which, : len(row.branches[which]) - row.lead]
        lead = by_prompts[index, 1 : row.lead + 1]
        return np.concatenate([lead if which == 0 else 0 * lead, own])

    k = batch.branches
    return value, [[of_branch(index, which) for which in range(k)] for index in range(len(rows))]


def random_rows(rng: np.random.Generator, name: str, hp: dict[str, Any], spread: float) -> list[oracle.Row]:
    method = methods.get(name)
    k = method.branches(method.hyperparameters(**hp))
    lead = 5 if hp.get("nll") == "prompt+response" else 0
    rows = []
    for _ in range(int(rng.integers(1, 6))):
        lengths = [lead + int(rng.choice([1, 2, 7, 40, 700])) for _ in range(k)]
        branches = [-rng.exponential(spread, n).astype(np.float32).astype(np.float64) - 1e-6 for n in lengths]
        ref = [b + rng.normal(0, 0.3 * spread, len(b)).astype(np.float32) for b in branches]
        rows.append(oracle.Row(branches, ref, lead))
    return rows


def check(
    framework: str, case: str, rows: list[oracle.Row], dtype: str, value_rtol: float, gradient_rtol: float
) -> None:
    name, hp, reference = CASES[case]
    expected, expected_gradient = reference(rows)
    value, gradient = value_and_gradient(framework, name, hp, rows, dtype)
    assert value == pytest.approx(expected, rel=value_rtol, abs=1e-12)
    scale = max(float(np.abs(g).max()) for row in expected_gradient for g in row)
    for got_row, want_row in zip(gradient, expected_gradient, strict=True):
        for got, want in zip(got_row, want_row, strict=True):
            np.testing.assert_allclose(got, want, rtol=gradient_rtol, atol=gradient_rtol * 1e-3 * scale)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [0.02, 1.0, 8.0])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_the_oracles(framework: str, case: str, spread: float, seed: int) -> None:
    name, hp, _ = CASES[case]
    rows = random_rows(np.random.default_rng([seed, int(spread * 100)]), name, hp, spread)
    check(framework, case, rows, "float64", 1e-6, 1e-5)  # the formula itself
    if spread < 8:  # in float32 a sum of 700 large terms has lost the digits that the loss then needs
        check(framework, case, rows, "float32", 1e-5, 1e-4)


@pytest.mark.parametrize("case", CASES)
def test_float32_holds_on_ordinary_answers(framework: str, case: str) -> None:
    """Short ragged answers with ordinary log-probabilities: 1e-6 on values and 1e-5 on gradients."""
    name, hp, _ = CASES[case]
    rng = np.random.default_rng(7)
    for _ in range(20):
        rows = [r for r in random_rows(rng, name, hp, 0.5) if max(map(len, r.branches)) < 100]
        if rows:
            check(framework, case, rows, "float32", 2e-6, 1e-5)


EXTREMES = [-1e-9, -1e-7, -0.5, -0.6931471805599453, -0.7, -30.0, -1e4]


@pytest.mark.parametrize("chosen", EXTREMES)
@pytest.mark.parametrize("rejected", EXTREMES)
@pytest.mark.parametrize("case", [case for case in CASES if case != "sft"])
def test_extreme_log_probabilities(framework: str, case: str, chosen: float, rejected: float) -> None:
    lead = 5 if "TRL" in case and case.startswith("orpo") else 0
    branches = [np.full(n + lead, a, np.float32).astype(np.float64) for n, a in ((3, chosen), (5, rejected))]
    rows = [oracle.Row(branches, [b * 0.999 for b in branches], lead)]
    check(framework, case, rows, "float64", 1e-6, 1e-5)
    name, hp, _ = CASES[case]
    value, gradient = value_and_gradient(framework, name, hp, rows, "float32")
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for row in gradient for g in row)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_orpo_is_finite_when_the_model_is_certain(framework: str, dtype: str) -> None:
    """float32 rounds the log-probability of a certain token to exactly 0, where the odds are infinite."""
    for answers in ((0.0, -1.0), (-1.0, 0.0), (0.0, 0.0)):
        rows = [oracle.Row([np.full(3, a) for a in answers], [np.zeros(3), np.zeros(3)])]
        value, gradient = value_and_gradient(framework, "orpo", {}, rows, dtype)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for row in gradient for g in row)


def test_pair_metrics_are_per_row() -> None:
    rows = [
        oracle.Row([np.full(2, -0.1), np.full(3, -2.0)], [np.zeros(2), np.zeros(3)]),
        oracle.Row([np.full(2, -2.0), np.full(3, -0.1)], [np.zeros(2), np.zeros(3)]),
    ]
    batch, grid = to_batch(rows, 4)
    method = methods.get("simpo")
    arrays = batch.map(mx.array)
    logps, _ = batch.with_logps(grid)
    loss = method.loss(MlxOps(), mx.array(logps), arrays.ref_logps, arrays, method.hyperparameters())
    assert loss.metrics["accuracy"].tolist() == [1.0, 0.0]
    assert loss.metrics["chosen_reward"].tolist() == pytest.approx([-0.2, -4.0])
    assert loss.metrics["margin"].tolist() == pytest.approx([3.8, -3.8])


def test_dpo_without_reference_is_refused() -> None:
    rows = [oracle.Row([np.full(2, -0.1), np.full(3, -2.0)], [np.zeros(2), np.zeros(3)])]
    batch, logps = to_batch(rows, 4)
    method = methods.get("dpo")
    with pytest.raises(ValueError, match="ref_logps"):
        method.loss(MlxOps(), logps, None, batch, method.hyperparameters())

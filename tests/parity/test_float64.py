"""Loss and adapter gradient of both backends against a float64 oracle of the whole path.

The model runs in float64 in transformers and peft; the loss and its derivative by each log-probability
come from `tests.oracle`, in numpy and by hand, and are sent back through the model by autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mlx_align.backends.base import State
from mlx_align.config import AdapterConfig
from mlx_align.data import Example, collate
from tests import oracle, support
from tests.parity.test_trl import RANK, ROWS, SCALE, load, ours, peft_model, peft_name
from tests.unit.methods.test_losses import CASES

SPREAD = 0.1
"""So that no loss is near 0, where float32 has no relative precision."""


def token_logps(model: Any, example: Example, lead: int) -> list[torch.Tensor]:
    """The float64 log-probabilities of each branch, `lead` prompt tokens before it included."""
    found = []
    for branch in example.branch_ids:
        ids = torch.tensor([[*example.prompt_ids, *branch]])
        table = torch.log_softmax(model(ids[:, :-1]).logits[0], dim=-1)
        start = len(example.prompt_ids) - lead
        found.append(table[torch.arange(start - 1, ids.shape[1] - 1), ids[0, start:]])
    return found


def exact(
    state: State, examples: tuple[Example, ...], whole: bool, loss: Callable[..., Any]
) -> tuple[float, State]:
    """Loss and adapter gradient in float64."""
    model = peft_model(state)
    leads = [len(example.prompt_ids) - 1 if whole else 0 for example in examples]

    def score(weights: State) -> list[list[torch.Tensor]]:
        load(model, weights)
        model.double().eval()
        return [token_logps(model, example, lead) for example, lead in zip(examples, leads, strict=True)]

    with torch.no_grad():
        reference = score({name: v * 0 if name.endswith("lora_b") else v for name, v in state.items()})
    logps = score(state)
    rows = [
        oracle.Row([b.detach().numpy() for b in policy], [b.numpy() for b in ref], lead)
        for policy, ref, lead in zip(logps, reference, leads, strict=True)
    ]
    value, slopes = loss(rows)
    flat = [tensor for row in logps for tensor in row]
    torch.autograd.backward(flat, [torch.tensor(slope) for row in slopes for slope in row])
    parameters = dict(model.named_parameters())
    return value, {name: parameters[peft_name(name)].grad.numpy().T for name in state}


def norm(state: State) -> float:
    """Of all arrays as one vector."""
    return float(np.sqrt(sum(np.square(array).sum() for array in state.values())))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_the_whole_path_in_float64(case: str) -> None:
    method, hp, loss = CASES[case]
    adapter = AdapterConfig(rank=RANK, scale=SCALE)
    policies = {name: support.policy(adapter, backend=name, spread=SPREAD) for name in ("mlx", "torch")}
    objective = support.objective(method, **hp)
    examples = support.examples(objective.method.rows)[:ROWS]
    whole = objective.method.scores_prompt(objective.hp)
    value, want = exact(policies["mlx"].adapter_state(), examples, whole, loss)
    for backend, policy in policies.items():
        got, gradient, _ = ours(method, hp, policy)
        assert got == pytest.approx(value, rel=1e-5), backend
        off = norm({name: gradient[name] - exactly for name, exactly in want.items()}) / norm(want)
        assert off < 1e-5, f"{backend}: {off:.1e}"
        for name, exactly in want.items():
            error = np.abs(gradient[name] - exactly).max() / np.abs(exactly).max()
            assert error < 1e-4, f"{backend} {name}: {error:.1e}"


@pytest.mark.filterwarnings("ignore")
def test_a_group_in_float64() -> None:
    """GRPO's gradient by four completions of each prompt, read once."""
    adapter = AdapterConfig(rank=RANK, scale=SCALE)
    policies = {name: support.policy(adapter, backend=name, spread=SPREAD) for name in ("mlx", "torch")}
    state = policies["mlx"].adapter_state()
    objective = support.objective("grpo", group_size=4)
    pairs = support.examples()[:4]
    groups = [
        replace(one, branch_ids=one.branch_ids + other.branch_ids, answers=("",) * 4)
        for one, other in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    advantages = np.array([1.2, -0.4, 0.3, -1.1, 0.5, 0.7, -1.5, 0.3], np.float32)

    model = peft_model(state)
    load(model, state)
    model.double().eval()
    logps = [tensor for example in groups for tensor in token_logps(model, example, 0)]
    known = [tensor.detach().numpy() for tensor in logps]
    answers = [oracle.Answer(own, own, own, float(a)) for own, a in zip(known, advantages, strict=True)]
    _, slopes = oracle.grpo(answers, objective.hp.loss_type, oracle.Clip(0.2, 0.2))
    torch.autograd.backward(logps, [torch.tensor(slope) for slope in slopes])
    parameters = dict(model.named_parameters())
    want = {name: parameters[peft_name(name)].grad.numpy().T for name in state}

    batch = replace(collate(groups), advantages=advantages)
    counts = objective.method.counts(batch, objective.hp)
    for backend, policy in policies.items():
        policy.accumulate(batch, objective, counts, seed=0)
        got = policy.training_state()
        off = norm({name: got[f"gradient.{name}"] - exactly for name, exactly in want.items()}) / norm(want)
        assert off < 1e-5, f"{backend}: {off:.1e}"

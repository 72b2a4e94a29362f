"""GRPO's loss and adapter gradient against TRL's own GRPOTrainer: same rollout, same adapter.

TRL's trainer is given token ids, masks, advantages and the log-probabilities under the sampling policy and
the reference, in the form in which it keeps its own rollouts; everything after that is its code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from mlx_align import embedded
from mlx_align.backends.base import Policy, State
from mlx_align.batch import Batch
from mlx_align.config import AdapterConfig
from mlx_align.data import Example, collate
from tests import support
from tests.parity.test_trl import RANK, SCALE, load, peft_model, peft_name

GROUPS, GROUP = 2, 4
N = GROUPS * GROUP
LENGTH = 40
TRUNCATED = (1, 6)
"""The answers that count as truncated where a case masks those."""


@dataclass(frozen=True)
class Case:
    """One configuration, in our words and in TRL's, and how the rollout is divided.

    Attributes:
        hp: our hyperparameters.
        trl: options of TRL's GRPOConfig beside the loss type.
        noise: how far the sampling policy is from the trained one, in a token's log-probability; 0: it is not
            stored, and both take it to be the same.
        accumulate: micro-batches of an update.
        updates: optimiser updates that the rollout is divided into.
        masked: truncated answers are left out.
        alike: the groups have the same answers, so their micro-batches have as many tokens.
        temperature: at which the answers were sampled.
    """

    hp: dict[str, Any]
    trl: dict[str, Any] = field(default_factory=dict)
    noise: float = 0.2
    accumulate: int = 1
    updates: int = 1
    masked: bool = False
    alike: bool = False
    temperature: float = 1.0


BIASED = {"use_bias_correction_kl": False}
SEQUENCE = {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}
TOKENS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "bnpo": {},
    "dapo": {"epsilon_high": 0.28},
    "dr_grpo": {"max_completion_length": LENGTH},
}
"""The loss types with a ratio for each token, and TRL's options for our defaults."""


def of_type(name: str, **more: Any) -> dict[str, Any]:
    return {"loss_type": name, **({"length": LENGTH} if name == "dr_grpo" else {}), **more}


CASES: dict[str, Case] = {
    **{name: Case(of_type(name), trl) for name, trl in TOKENS.items()},
    "gspo": Case(of_type("gspo"), SEQUENCE, noise=2e-3),
    "gspo, wide": Case(
        of_type("gspo", epsilon=0.05), {**SEQUENCE, "epsilon": 0.05, "epsilon_high": 0.05}, noise=0.3
    ),
    **{f"{name}, on policy": Case(of_type(name), trl, noise=0.0) for name, trl in TOKENS.items()},
    "gspo, on policy": Case(of_type("gspo"), SEQUENCE, noise=0.0),
    **{
        f"{name}, kl": Case(of_type(name, beta=0.1), {**trl, "beta": 0.1, **BIASED})
        for name, trl in TOKENS.items()
    },
    "gspo, kl": Case(of_type("gspo", beta=0.1), {**SEQUENCE, "beta": 0.1, **BIASED}, noise=2e-3),
    "grpo, kl like TRL": Case(of_type("grpo", beta=0.1, unbiased_kl=True), {"beta": 0.1}),
    "dapo, kl like TRL, on policy": Case(
        of_type("dapo", beta=0.1, unbiased_kl=True), {**TOKENS["dapo"], "beta": 0.1}, noise=0.0
    ),
    "dapo, two-sided": Case(of_type("dapo", delta=1.4), {**TOKENS["dapo"], "delta": 1.4}, noise=0.6),
    "gspo, two-sided": Case(of_type("gspo", delta=1.001), {**SEQUENCE, "delta": 1.001}, noise=2e-3),
    **{
        f"{name}, masked": Case(of_type(name, mask_truncated=True), trl, masked=True)
        for name, trl in TOKENS.items()
    },
    "gspo, masked": Case(of_type("gspo", mask_truncated=True), SEQUENCE, noise=2e-3, masked=True),
    **{
        f"{name}, accumulated": Case(of_type(name, beta=0.1), {**trl, "beta": 0.1, **BIASED}, accumulate=2)
        for name, trl in TOKENS.items()
        if name != "bnpo"
    },
    "gspo, accumulated": Case(of_type("gspo"), SEQUENCE, noise=2e-3, accumulate=2),
    "bnpo, accumulated": Case(of_type("bnpo"), accumulate=2, alike=True),
    "dapo, accumulated, masked": Case(
        of_type("dapo", mask_truncated=True), TOKENS["dapo"], accumulate=2, masked=True
    ),
    **{f"{name}, two updates": Case(of_type(name), trl, updates=2) for name, trl in TOKENS.items()},
    **{
        f"{name}, cool": Case(
            of_type(name, beta=0.1), {**trl, "beta": 0.1, **BIASED}, accumulate=2, temperature=0.7
        )
        for name, trl in {"grpo": {}, "dapo": TOKENS["dapo"]}.items()
    },
    "gspo, hot": Case(of_type("gspo"), SEQUENCE, noise=2e-3, temperature=1.3),
    "dapo, cool, on policy": Case(of_type("dapo"), TOKENS["dapo"], noise=0.0, temperature=0.7),
}


@dataclass(frozen=True)
class Part:
    """A micro-batch of the rollout: some of its groups, whole, as numpy arrays."""

    examples: tuple[Example, ...]
    batch: Batch

    @property
    def completions(self) -> list[tuple[int, ...]]:
        return [ids for example in self.examples for ids in example.branch_ids]


def rollout(alike: bool) -> tuple[Example, ...]:
    """Groups of answers of different lengths."""
    pairs = support.examples("pair")
    answers = [ids[: LENGTH - 3 * which] for e in pairs for which, ids in enumerate(e.branch_ids)]
    return tuple(
        replace(pairs[group], branch_ids=tuple(answers[first : first + GROUP]), answers=("",) * GROUP)
        for group, first in enumerate(range(0, N, GROUP))
        for first in [0 if alike else first]
    )


def parts_of(case: Case, policy: Policy) -> list[Part]:
    """The rollout in micro-batches; old and reference log-probabilities are the policy's, moved about."""
    rng = np.random.default_rng(11)
    examples = rollout(case.alike)
    divided = case.accumulate * case.updates
    each = GROUPS // divided
    parts = []
    for first in range(0, GROUPS, each):
        mine = examples[first : first + each]
        batch = collate(mine)
        logps = policy.logps(batch, temperature=case.temperature)
        shape = logps.shape
        kept = np.ones(N, np.float32)
        kept[list(TRUNCATED if case.masked else ())] = 0
        chosen = slice(first * GROUP, (first + each) * GROUP)
        batch = replace(
            batch,
            response_mask=batch.branch_mask * kept[chosen, None],
            advantages=rng.normal(size=each * GROUP).astype(np.float32),
            old_logps=(logps + rng.normal(0, case.noise, shape)).astype(np.float32) if case.noise else None,
            ref_logps=(logps + rng.normal(0, 0.3, shape)).astype(np.float32),
        )
        parts.append(Part(mine, batch))
    return parts


def their_inputs(part: Part, tokens: float) -> dict[str, torch.Tensor]:
    """One element of TRL's buffered rollout, which has so many tokens in the loss."""
    width = max(map(len, part.completions))
    prompts = [e.prompt_ids for e in part.examples for _ in e.branch_ids]
    longest = max(map(len, prompts))
    batch = part.batch
    inputs = {
        "prompt_ids": [[0] * (longest - len(ids)) + list(ids) for ids in prompts],
        "prompt_mask": [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts],
        "completion_ids": batch.branch_ids[:, :width],
        "completion_mask": batch.response_mask[:, :width].astype(np.int64),
        "advantages": batch.advantages,
        "num_items_in_batch": tokens,
        "ref_per_token_logps": batch.ref_logps[:, :width],
    }
    if batch.old_logps is not None:
        inputs["old_per_token_logps"] = batch.old_logps[:, :width]
    tensors = {name: torch.tensor(value) for name, value in inputs.items()}
    return {name: t.long() if name.endswith("_ids") else t for name, t in tensors.items()}


def trainer(case: Case, model: Any, folder: Path) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    loss_type = "grpo" if case.hp["loss_type"] == "gspo" else case.hp["loss_type"]
    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        loss_type=loss_type,
        num_generations=GROUP,
        per_device_train_batch_size=N // (case.accumulate * case.updates),
        gradient_accumulation_steps=case.accumulate,
        steps_per_generation=case.accumulate * case.updates,
        mask_truncated_completions=case.masked,
        temperature=case.temperature,
        **case.trl,
    )
    made = GRPOTrainer(
        model=model,
        args=config,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=AutoTokenizer.from_pretrained(embedded.model_folder()),
    )
    made.current_gradient_accumulation_steps = case.accumulate
    return made


Step = tuple[float, State]
"""Loss and adapter gradient of one update."""


def theirs(case: Case, parts: list[Part], state: State, folder: Path) -> list[Step]:
    """The updates of the rollout, all with the same adapter."""
    model = peft_model(state)
    made = trainer(case, model, folder)
    load(model, state)
    model.train()  # nothing has dropout; TRL divides by the micro-batches in this mode only
    tokens = float(sum(part.batch.response_mask.sum() for part in parts))
    steps = []
    for first in range(0, len(parts), case.accumulate):
        model.zero_grad()
        losses = [
            made._compute_loss(model, their_inputs(part, tokens))
            for part in parts[first : first + case.accumulate]
        ]
        sum(losses).backward()
        parameters = dict(model.named_parameters())
        gradient = {name: parameters[peft_name(name)].grad.numpy().T for name in state}
        steps.append((sum(losses).item(), gradient))
    return steps


def ours(case: Case, parts: list[Part], policy: Policy) -> list[Step]:
    objective = replace(support.objective("grpo", group_size=GROUP, **case.hp), temperature=case.temperature)
    counts = [objective.method.counts(part.batch, objective.hp)["loss"] for part in parts]
    steps = []
    for first in range(0, len(parts), case.accumulate):
        window = slice(first, first + case.accumulate)
        denominator = sum(counts) / case.updates if objective.hp.counts_rollout else sum(counts[window])
        scores = [
            policy.accumulate(part.batch, objective, {"loss": denominator}, seed=0) for part in parts[window]
        ]
        prefix = "gradient."
        state = policy.training_state()
        gradient = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        policy.discard()
        steps.append((sum(score.sums["loss"] for score in scores) / denominator, gradient))
    return steps


@pytest.fixture(scope="module")
def policies() -> dict[str, Policy]:
    adapter = AdapterConfig(rank=RANK, scale=SCALE)
    return {name: support.policy(adapter, backend=name) for name in ("mlx", "torch")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_every_update_is_trls(name: str, policies: dict[str, Policy], tmp_path: Path) -> None:
    case = CASES[name]
    parts = parts_of(case, policies["mlx"])
    expected = theirs(case, parts, policies["mlx"].adapter_state(), tmp_path)
    assert len(expected) == case.updates
    for backend, policy in policies.items():
        for (loss, gradient), (their_loss, their_gradient) in zip(
            ours(case, parts, policy), expected, strict=True
        ):
            assert loss == pytest.approx(their_loss, rel=1e-5, abs=1e-6), backend
            for key, want in their_gradient.items():
                assert want.any()
                error = np.abs(gradient[key] - want).max() / np.abs(want).max()
                assert error < 1e-4, f"{backend} {key}: {error:.1e}"

"""Our losses and adapter gradients against TRL's own trainers: same rows, same adapter, first step.

TRL tokenises in its own way, so its trainers' loss code is given our token ids. Where our defaults differ
from TRL's, our TRL-compatible option is on: the table in CONTRIBUTING.md lists every such difference.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from mlx_align import embedded
from mlx_align.backends.base import Policy, State
from mlx_align.config import AdapterConfig
from mlx_align.data import Example, collate
from tests import support

RANK, SCALE = 4, 2.0
ROWS = 6
IGNORED = -100


def peft_model(state: State) -> PeftModel:
    """The embedded model in transformers with a fresh adapter, made without our own torch backend."""
    base = AutoModelForCausalLM.from_pretrained(embedded.model_folder(), dtype=torch.float32)
    targets = sorted({name.rsplit(".", 1)[0].split(".", 3)[-1] for name in state})
    return get_peft_model(base, LoraConfig(r=RANK, lora_alpha=RANK * SCALE, target_modules=targets))


def load(model: PeftModel, state: State) -> None:
    parameters = dict(model.named_parameters())
    for name, value in state.items():
        parameters[peft_name(name)].data = torch.tensor(value.T.copy())


def peft_name(name: str) -> str:
    module, leaf = name.rsplit(".", 1)
    return f"base_model.model.{module}.{ {'lora_a': 'lora_A', 'lora_b': 'lora_B'}[leaf] }.default.weight"


def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def dpo_inputs(examples: tuple[Example, ...]) -> dict[str, torch.Tensor]:
    """DPOTrainer's batch: all chosen, then all rejected."""
    rows = [(e, e.branch_ids[which]) for which in (0, 1) for e in examples]
    return {
        "input_ids": padded([[*e.prompt_ids, *ids] for e, ids in rows], 0),
        "attention_mask": padded([[1] * (len(e.prompt_ids) + len(ids)) for e, ids in rows], 0),
        "completion_mask": padded([[0] * len(e.prompt_ids) + [1] * len(ids) for e, ids in rows], 0),
    }


def pair_inputs(examples: tuple[Example, ...]) -> dict[str, torch.Tensor]:
    """The batch of the ORPO and CPO trainers."""
    inputs: dict[str, torch.Tensor] = {}
    for which, name in enumerate(("chosen", "rejected")):
        whole = [[*e.prompt_ids, *e.branch_ids[which]] for e in examples]
        labels = [[IGNORED] * len(e.prompt_ids) + list(e.branch_ids[which]) for e in examples]
        inputs[f"{name}_input_ids"] = padded(whole, 0)
        inputs[f"{name}_attention_mask"] = padded([[1] * len(row) for row in whole], 0)
        inputs[f"{name}_labels"] = padded(labels, IGNORED)
    inputs["prompt_input_ids"] = padded([list(e.prompt_ids) for e in examples], 0)
    return inputs


def trainer(kind: str, model: PeftModel, folder: Path, **options: Any) -> Any:
    from trl import DPOConfig, DPOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    classes = {
        "dpo": (DPOTrainer, DPOConfig),
        "orpo": (ORPOTrainer, ORPOConfig),
        "cpo": (CPOTrainer, CPOConfig),
    }
    trainer_class, config_class = classes[kind]
    config = config_class(output_dir=str(folder), use_cpu=True, report_to=[], bf16=False, **options)
    dummy = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    tokenizer = AutoTokenizer.from_pretrained(embedded.model_folder())
    return trainer_class(model=model, args=config, train_dataset=dummy, processing_class=tokenizer)


def theirs(kind: str, state: State, folder: Path, **options: Any) -> tuple[float, State]:
    model = peft_model(state)
    made = trainer(kind, model, folder, **options)
    load(model, state)  # after the trainer has taken the fresh adapter, that is the base, for its reference
    model.eval()  # no dropout anywhere; gradients all the same
    examples = support.examples()[:ROWS]
    if kind == "dpo":
        loss = made.compute_loss(model, dpo_inputs(examples))
    else:
        loss, _ = made.get_batch_loss_metrics(model, pair_inputs(examples))
    model.zero_grad()
    loss.backward()
    parameters = dict(model.named_parameters())
    return loss.item(), {name: parameters[peft_name(name)].grad.numpy().T for name in state}


def ours(method: str, hp: dict[str, Any], policy: Policy) -> tuple[float, State, State]:
    """Loss, adapter gradient and the adapter they belong to."""
    objective = support.objective(method, **hp)
    state = policy.adapter_state()
    examples = support.examples(objective.method.rows)[:ROWS]
    scores_prompt = objective.method.scores_prompt(objective.hp)
    ref = None
    if objective.method.needs_reference(objective.hp):
        policy.load_adapter_state({k: v * 0 if k.endswith("lora_b") else v for k, v in state.items()})
        logps = policy.logps(collate(examples))
        ref = [
            [logps[2 * i + b, : len(ids)] for b, ids in enumerate(e.branch_ids)]
            for i, e in enumerate(examples)
        ]
        policy.load_adapter_state(state)
    batch = collate(examples, scores_prompt=scores_prompt, ref_logps=ref)
    counts = objective.method.counts(batch, objective.hp)
    scores = policy.accumulate(batch, objective, counts, seed=0)
    prefix = "gradient."
    gradient = {k.removeprefix(prefix): v for k, v in policy.training_state().items() if k.startswith(prefix)}
    return sum(value / counts[term] for term, value in scores.sums.items()), gradient, state


CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "dpo": ("dpo", {}, "dpo", {}),
    "dpo, beta 0.5": ("dpo", {"beta": 0.5}, "dpo", {"beta": 0.5}),
    "ipo": ("dpo", {"loss_type": "ipo"}, "dpo", {"loss_type": "ipo"}),
    "hinge": ("dpo", {"loss_type": "hinge"}, "dpo", {"loss_type": "hinge"}),
    "orpo": ("orpo", {"nll": "prompt+response"}, "orpo", {}),
    "simpo": (
        "simpo",
        {"beta": 0.1, "gamma": 0.5},
        "cpo",
        {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 0.1, "simpo_gamma": 0.5},
    ),
    "simpo, our defaults": (
        "simpo",
        {},
        "cpo",
        {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_first_step_is_trls(case: str, tmp_path: Path) -> None:
    method, hp, kind, options = CASES[case]
    policies = {
        name: support.policy(AdapterConfig(rank=RANK, scale=SCALE), backend=name) for name in ("mlx", "torch")
    }
    state = policies["mlx"].adapter_state()
    their_loss, their_gradient = theirs(kind, state, tmp_path, **options)
    assert math.sqrt(sum(float(np.square(g).sum()) for g in their_gradient.values())) > 0
    for backend, policy in policies.items():
        loss, gradient, _ = ours(method, hp, policy)
        assert loss == pytest.approx(their_loss, rel=1e-5), backend
        for name, want in their_gradient.items():
            error = np.abs(gradient[name] - want).max() / np.abs(want).max()
            assert error < 1e-4, f"{backend} {name}: {error:.1e}"

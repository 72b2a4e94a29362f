"""What is right, in float64: first losses and adapter gradient of a cell, for each definition in use.

    python -m tests.bench.peers.oracle WORKLOAD        writes oracle.json and oracle-*.safetensors there

The model is transformers' Qwen3 in float64 with LoRA added here, and with its norms and rotary angles
replaced: transformers computes those in float32 whatever the weights are. The loss and its derivative come
from tests/oracle.py, which the test suite checks, and torch only carries that derivative through the model.
One sequence at a time, no padding, no sharing.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from tests import oracle
from tests.bench.peers.workload import ROPE_THETA, Row, Workload

RESPONSE, WHOLE, BY_ROW = "response", "prompt+response", "response, mean over rows"
DEFINITIONS = {"orpo": (RESPONSE, WHOLE, BY_ROW), "dpo": (RESPONSE,), "simpo": (RESPONSE,)}
"""Which tokens ORPO's likelihood is taken over, and how it is averaged: over tokens, or first within rows."""

Loss = Callable[[list[oracle.Row]], tuple[float, list[list[np.ndarray]]]]


class Lora(nn.Module):
    """A frozen linear layer and its low-rank update, in float64."""

    def __init__(self, linear: nn.Linear, a: np.ndarray, b: np.ndarray, scale: float) -> None:
        super().__init__()
        self.linear, self.scale, self.on = linear, scale, True
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.linear(x)
        return out + self.scale * (x @ self.a) @ self.b if self.on else out


class Norm(nn.Module):
    """RMSNorm that stays in float64."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class Rotary(nn.Module):
    """Rotary angles in float64: cosines and sines, (1, L, head_dim) each."""

    def __init__(self, theta: float, width: int) -> None:
        super().__init__()
        self.frequencies = theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = position_ids[..., None].double() * self.frequencies
        both = torch.cat((angles, angles), dim=-1)
        return both.cos(), both.sin()


def exactly_float64(model: nn.Module, theta: float) -> nn.Module:
    """The same model without its casts to float32."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "Qwen3RMSNorm":
            model.set_submodule(name, Norm(module))
    model.model.rotary_emb = Rotary(theta, model.config.head_dim)
    return model.requires_grad_(False)


class Oracle:
    """The model of a workload."""

    def __init__(self, workload: Workload) -> None:
        from transformers import AutoModelForCausalLM

        self._workload = workload
        model = AutoModelForCausalLM.from_pretrained(
            workload.folder, dtype=torch.float64, attn_implementation="sdpa"
        )
        self.model = exactly_float64(model.eval(), ROPE_THETA)
        arrays = load_file(workload.adapter)
        self.layers: dict[str, Lora] = {}
        for name in sorted({key.rsplit(".", 1)[0] for key in arrays}):
            linear = self.model.get_submodule(name)
            layer = Lora(linear, arrays[f"{name}.lora_a"], arrays[f"{name}.lora_b"], workload.scale)
            self.model.set_submodule(name, layer)
            self.layers[name] = layer

    def logps(self, row: Row, answer: list[int], lead: int) -> torch.Tensor:
        """(lead + R,) log-probabilities of the answer and of the `lead` prompt tokens before it."""
        ids = torch.tensor([row.prompt + answer])
        states = self.model.model(ids[:, :-1], use_cache=False).last_hidden_state[0]
        logits = self.model.lm_head(states[len(row.prompt) - 1 - lead :])
        targets = ids[0, len(row.prompt) - lead :, None]
        return torch.log_softmax(logits, -1).gather(-1, targets)[:, 0]

    @torch.no_grad()
    def scored(self, rows: list[Row]) -> list[oracle.Row]:
        """The rows' log-probabilities now, and (for DPO) under the base model.

        For ORPO, of which there is a definition that needs them, the prompt's tokens lead.
        """
        found = []
        for row in rows:
            lead = len(row.prompt) - 1 if self._workload.method == "orpo" else 0
            branches = [self.logps(row, answer, lead).numpy() for answer in (row.chosen, row.rejected)]
            ref = branches
            if self._workload.method == "dpo":
                self._switch(False)
                ref = [self.logps(row, answer, lead).numpy() for answer in (row.chosen, row.rejected)]
                self._switch(True)
            found.append(oracle.Row(branches, ref, lead))
        return found

    def gradient(
        self, rows: list[Row], upstream: list[list[np.ndarray]], *, whole: bool
    ) -> dict[str, np.ndarray]:
        """The adapter's gradient.

        Args:
            rows: of one batch.
            upstream: for each row, for each answer, the loss's derivative by each log-probability.
            whole: the prompt's tokens count; else their derivatives are zero and not looked at.
        """
        self.model.zero_grad()
        for row, grads in zip(rows, upstream, strict=True):
            lead = len(row.prompt) - 1 if whole else 0
            for answer, grad in zip((row.chosen, row.rejected), grads, strict=True):
                values = self.logps(row, answer, lead)
                values.backward(torch.tensor(grad[-len(values) :]))
        return {
            f"{name}.{leaf}": parameter.grad.numpy().copy()
            for name, layer in self.layers.items()
            for leaf, parameter in (("lora_a", layer.a), ("lora_b", layer.b))
        }

    def first_update(self, gradient: dict[str, np.ndarray]) -> None:
        """AdamW's first step with bias correction and no decay: lr * g / (|g| + eps)."""
        for name, layer in self.layers.items():
            for leaf, parameter in (("lora_a", layer.a), ("lora_b", layer.b)):
                g = torch.tensor(gradient[f"{name}.{leaf}"])
                parameter.data -= self._workload.lr * g / (g.abs() + 1e-8)

    def restore(self) -> None:
        """The first adapter again."""
        arrays = load_file(self._workload.adapter)
        for name, layer in self.layers.items():
            layer.a.data = torch.tensor(arrays[f"{name}.lora_a"], dtype=torch.float64)
            layer.b.data = torch.tensor(arrays[f"{name}.lora_b"], dtype=torch.float64)

    def _switch(self, on: bool) -> None:
        for layer in self.layers.values():
            layer.on = on


def without_lead(loss: Loss) -> Loss:
    """The same loss of the responses alone; the prompt's tokens get a gradient of zero."""

    def wrapped(rows: list[oracle.Row]) -> tuple[float, list[list[np.ndarray]]]:
        bare = [oracle.Row([b[r.lead :] for b in r.branches], [b[r.lead :] for b in r.ref]) for r in rows]
        value, grads = loss(bare)
        padded = [
            [np.concatenate([np.zeros(row.lead), g]) for g in of_row]
            for row, of_row in zip(rows, grads, strict=True)
        ]
        return value, padded

    return wrapped


def by_row(loss: Loss) -> Loss:
    """The mean of each row's own loss."""

    def wrapped(rows: list[oracle.Row]) -> tuple[float, list[list[np.ndarray]]]:
        each = [loss([row]) for row in rows]
        return sum(value for value, _ in each) / len(rows), [[g / len(rows) for g in gs[0]] for _, gs in each]

    return wrapped


def loss_of(workload: Workload, definition: str) -> Loss:
    """The method's loss under a definition."""
    numbers = workload.hyperparameters
    plain: Loss
    if workload.method == "orpo":
        plain = lambda rows: oracle.orpo(rows, numbers["beta"])  # noqa: E731
    elif workload.method == "dpo":
        plain = lambda rows: oracle.dpo(rows, numbers["beta"], "sigmoid")  # noqa: E731
    else:
        plain = lambda rows: oracle.simpo(rows, numbers["beta"], numbers["gamma"])  # noqa: E731
    if definition == WHOLE:
        return plain
    return by_row(without_lead(plain)) if definition == BY_ROW else without_lead(plain)


def gradient_file(folder: Path, definition: str) -> Path:
    """Where a definition's gradient lies."""
    return folder / f"oracle-{definition.replace(' ', '-').replace(',', '')}.safetensors"


def compute(workload: Workload) -> dict[str, Any]:
    """Losses of the first two steps, and norms of the first gradient, by definition."""
    model, found = Oracle(workload), {}
    first, second = workload.batch_rows(0), workload.batch_rows(1)
    scored, unmoved = model.scored(first), model.scored(second)
    for definition in DEFINITIONS[workload.method]:
        loss = loss_of(workload, definition)
        value, upstream = loss(scored)
        gradient = model.gradient(first, upstream, whole=definition == WHOLE)
        save_file(gradient, gradient_file(workload.folder, definition))
        model.first_update(gradient)
        after, _ = loss(model.scored(second))
        model.restore()
        found[definition] = {
            "losses": [value, after],
            "second_if_unmoved": loss(unmoved)[0],
            "gradient_norm": math.sqrt(sum(float(np.square(g).sum()) for g in gradient.values())),
        }
    return found


def main() -> None:
    """Compute and write."""
    workload = Workload.read(Path(sys.argv[1]))
    result = compute(workload)
    (workload.folder / "oracle.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

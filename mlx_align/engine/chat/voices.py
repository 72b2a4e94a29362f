"""One model that answers as it is and as it was: the base is the tuned model with an adapter of no effect.

So the weights are in memory once. For LoRA the adapter of no effect has a B of zeros; for DoRA also the
magnitudes of the base's own weights, which a fresh adapter has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mlx_align.backends import adapter_files
from mlx_align.backends.base import Backend, Policy, State
from mlx_align.config import AdapterConfig
from mlx_align.engine.chat.protocol import Voice
from mlx_align.engine.rollouts.wearing import wearing
from mlx_align.errors import UsageError

ALONE = "The base cannot be compared: this DoRA adapter is of a kind that is not made here ({})."


@dataclass(frozen=True)
class Voices:
    """Who can be asked.

    Attributes:
        policy: the model; it wears the adapter, if there is one.
        without: the adapter of no effect; None where that is the model itself, or not known.
        names: who can be asked.
        notes: what could not be had, as sentences for a person.
    """

    policy: Policy
    without: State | None
    names: tuple[Voice, ...]
    notes: tuple[str, ...] = ()

    @contextmanager
    def speaking(self, who: Voice) -> Iterator[Policy]:
        """The policy, as long as this lasts, as the one that is asked.

        Raises:
            UsageError: it cannot be asked.
        """
        if who not in self.names:
            raise UsageError(f"'{who}' cannot be asked here", hint=f"There is: {', '.join(self.names)}.")
        if who == "base" and self.without is not None:
            with wearing(self.policy, self.without):
                yield self.policy
        else:
            yield self.policy


def load(backend: Backend, model: Path, adapter: Path | None) -> Voices:
    """Load a model, with an adapter in mlx-lm's format or without one.

    Raises:
        UsageError: one of them cannot be used.
    """
    if adapter is None:
        return Voices(backend.load_for_generation(model, None), None, ("base",))
    facts = _facts(adapter)
    if facts.get("fine_tune_type") == "dora":
        return _dora(backend, model, adapter, facts)
    policy = backend.load_for_generation(model, adapter)
    return Voices(policy, _without(policy.adapter_state()), ("tuned", "base"))


def _facts(adapter: Path) -> dict[str, Any]:
    try:
        return adapter_files.read_facts(adapter)
    except (OSError, ValueError):  # whoever loads it says what is wrong with it
        return {}


def _without(state: State) -> State:
    return {n: np.zeros_like(value) if n.endswith("lora_b") else value for n, value in state.items()}


def _dora(backend: Backend, model: Path, adapter: Path, facts: dict[str, Any]) -> Voices:
    """A fresh DoRA adapter of the same shape, whose values are then replaced by the saved ones."""
    try:
        policy = backend.load_policy(model, _shape(facts), None, seed=0)
        fresh = policy.adapter_state()
        policy.load_adapter_state(load_file(adapter / adapter_files.WEIGHTS))
    except (UsageError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        reason = error.message if isinstance(error, UsageError) else str(error)
        return Voices(backend.load_for_generation(model, adapter), None, ("tuned",), (ALONE.format(reason),))
    return Voices(policy, fresh, ("tuned", "base"))


def _shape(facts: dict[str, Any]) -> AdapterConfig:
    numbers, layers = facts["lora_parameters"], int(facts["num_layers"])
    return AdapterConfig(
        type="dora",
        rank=numbers["rank"],
        scale=numbers["scale"],
        dropout=numbers.get("dropout", 0.0),
        modules=tuple(numbers["keys"]),
        layers=layers if layers > 0 else "all",
    )

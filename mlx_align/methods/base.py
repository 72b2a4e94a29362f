"""What a method is: a name, a few facts and a pure loss.

A new method is one new file that ends in `METHOD = Method(...)`, plus one line in the registry
(`methods/__init__.py`). Nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from mlx_align.batch import Array, Batch
from mlx_align.methods.ops import Ops

RowKind = Literal["completion", "pair", "prompt"]
"""completion: one prompt, one answer. pair: one prompt, a chosen and a rejected answer. prompt: no answer to
learn from; the policy samples a group of them."""


class Hyperparameters(BaseModel):
    """A method's own numbers, checked: an unknown key or a value out of range is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Loss:
    """What a loss function returns for one micro-batch.

    The objective over a whole accumulation window is

        sum over terms of  (sum over micro-batches of sums[term]) / (sum over micro-batches of counts[term])

    so rows, pairs and tokens weigh the same however they were divided into micro-batches.

    Attributes:
        sums: term name -> scalar, the term summed over the batch's rows (or tokens).
        metrics: name -> (B,) one value a row, without gradient meaning; averaged over rows for display.
    """

    sums: dict[str, Array]
    metrics: dict[str, Array] = field(default_factory=dict)


class LossFunction(Protocol):
    """loss(xp, logps, ref_logps, batch, hp) -> Loss, pure and framework-free."""

    def __call__(self, xp: Ops, logps: Array, ref_logps: Array | None, batch: Batch, hp: Any) -> Loss:
        """The loss of one micro-batch from its (N, T) token log-probabilities."""


def count_rows(batch: Batch, hp: Hyperparameters) -> dict[str, float]:
    """The usual denominators: one term called "loss", averaged over rows."""
    return {"loss": float(batch.size)}


@dataclass(frozen=True)
class Method:
    """One training method.

    Attributes:
        name: what the command line calls it.
        title: its full name.
        paper: where it is defined.
        rows: the kind of row it learns from.
        branches: k, the answers to a prompt, under these hyperparameters.
        needs_reference: whether, under these hyperparameters, the loss reads `ref_logps`.
        hyperparameters: the model that checks its own numbers.
        loss: the mathematics.
        counts: term name -> denominator contributed by one micro-batch; reads masks only, so that the
            denominators of a window are known before its first forward pass.
        defaults: dotted config keys whose default differs for this method, each with a source in the file.
        scores_prompt: whether, under these hyperparameters, the prompt's tokens are scored too: the loss
            finds them in `Batch.prompt_logps`. No reference scores them, so it may not need one.
    """

    name: str
    title: str
    paper: str
    rows: RowKind
    branches: Callable[[Any], int]
    needs_reference: Callable[[Any], bool]
    hyperparameters: type[Hyperparameters]
    loss: LossFunction
    counts: Callable[[Batch, Any], dict[str, float]] = count_rows
    defaults: Mapping[str, Any] = field(default_factory=dict)
    scores_prompt: Callable[[Any], bool] = lambda hp: False


def sequence_logps(xp: Ops, logps: Array, mask: Array) -> tuple[Array, Array]:
    """Summed log-probability and token count of each branch: both (N,)."""
    return xp.sum(logps * mask, axis=-1), xp.sum(mask, axis=-1)


def pair_metrics(xp: Ops, chosen: Array, rejected: Array) -> dict[str, Array]:
    """Rewards of both answers, their margin and whether the pair is ranked right, each (B,).

    Ties count as wrong: a model that gives both answers the same reward has not learnt the preference.
    """
    margin = chosen - rejected
    one = margin * 0 + 1
    return {
        "chosen_reward": chosen,
        "rejected_reward": rejected,
        "margin": margin,
        "accuracy": xp.where(margin > 0, one, one * 0),
    }

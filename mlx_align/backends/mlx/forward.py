"""From a batch to the log-probabilities of its branch tokens.

Two ways of reading a batch give the same numbers:

    shared    each prompt once, then every branch after its prompt's keys and values (`prefix`)
    whole     every branch as one sequence, prompt and continuation

Either way the head sees only the positions that are scored (`split`), in chunks (`selected`). Sequences are
right-padded, so under a causal mask no real token can see padding; on a CPU, where no graph is kept for its
shape, a branch that is much shorter than another is read apart from it and padded less (`ragged`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_align.backends.mlx import prefix
from mlx_align.backends.mlx.memory import gpu_memory
from mlx_align.backends.mlx.prefix import Held
from mlx_align.backends.mlx.selected import chunk_positions, selected_logps
from mlx_align.backends.mlx.split import SplitModel
from mlx_align.backends.mlx.stages import Stages
from mlx_align.backends.sequences import (
    Group,
    Ids,
    groups,
    predicting,
    prefixes_and_suffixes,
    whole_sequences,
)
from mlx_align.batch import Batch

Inputs = dict[str, Any]
"""What to read: `ids`, a list of (n, L) sequences, and `at`: for each of them, which of its n * L tokens
predict scored ones. `order`: where in all of those each of the M scored tokens' is. If prompts are read once,
also their tokens, `prefixes`, and `lens`: for each of `ids`, how many of them belong to each sequence."""


@dataclass(frozen=True)
class Forward:
    """How a model reads a batch.

    Attributes:
        model: layers and head apart.
        shared: whether prompts may be read once for all their branches.
        vocabulary: V, for the size of a chunk.
        lanes: how many parts of a batch may be at the head together, for the same.
        frugal: whether memory matters more than time, for the same.
        longest: how many tokens prompt and branch may have for a prompt to be shared (`longrope`).
        ragged: whether shorter branches are read apart.
        stages: told up to where a graph may be computed.
    """

    model: SplitModel
    shared: bool
    vocabulary: int
    lanes: int = 1
    frugal: bool = False
    longest: float = math.inf
    ragged: bool = False
    stages: Stages = field(default_factory=lambda: Stages(wanted=False))

    def inputs(self, batch: Batch) -> Inputs:
        """What is read, from a batch with numpy arrays. One branch has nothing to share a prompt with."""
        prompt, width = batch.prompt_ids.shape[1], batch.prompt_ids.shape[1] + batch.branch_ids.shape[1] - 1
        if self.shared and batch.branches > 1 and prompt > 1 and width <= self.longest:
            return self.shared_inputs(batch)
        ids, starts = whole_sequences(batch)
        return self._grouped(batch, ids[:, :-1], starts - 1)[0]

    def shared_inputs(self, batch: Batch) -> Inputs:
        """The same where the prompts are read once, or have been."""
        prefixes, lens, suffixes = prefixes_and_suffixes(batch)
        inputs, made = self._grouped(batch, suffixes, np.zeros_like(lens))
        return {
            "prefixes": mx.array(prefixes),
            "lens": [mx.array(lens[group.members]) for group in made],
            **inputs,
        }

    def _grouped(self, batch: Batch, sequences: Ids, before: Ids) -> tuple[Inputs, list[Group]]:
        made = groups(batch, before, sequences.shape[1], ragged=self.ragged)
        at, order = predicting(batch, before, made)
        ids = [mx.array(sequences[group.members, : group.width]) for group in made]
        return {"ids": ids, "at": [mx.array(places) for places in at], "order": mx.array(order)}, made

    def logps(
        self, inputs: Inputs, batch: Batch, *, grad: bool, temperature: float = 1.0, held: Held | None = None
    ) -> mx.array:
        """(N, T) float32 log-probabilities of the branch tokens, 0 where masked.

        Args:
            inputs: from `inputs`.
            batch: the same batch with MLX arrays.
            grad: whether a derivative will be asked for.
            temperature: divides the logits.
            held: the prompts' keys and values (`read_prefixes`), if they have been read.
        """
        n, width = batch.branch_ids.shape
        with self.stages.forward():
            logps = selected_logps(
                self.model.logits if temperature == 1 else lambda x: self.model.logits(x) / temperature,
                self._features(inputs, held),
                batch.branch_ids.reshape(-1)[batch.scored],
                chunk_positions(self.vocabulary, self.lanes, gpu_memory(), frugal=self.frugal),
                grad=grad,
                after=self.stages.after,
            )
        grid = mx.zeros(n * width).at[batch.scored].add(logps).reshape(n, width)
        return mx.where(batch.branch_mask > 0, grid, 0.0)

    def held(self, prefixes: mx.array) -> Held:
        """Every layer's keys and values of (B, P) prefixes."""
        with self.stages.forward():
            held = read_prefixes(self.model, prefixes, self.stages.need)
        self.stages.drop()  # what layers made of the last keys and values
        return held

    def _features(self, inputs: Inputs, held: Held | None) -> mx.array:
        """(M, D): those that predict the scored tokens."""
        if "prefixes" in inputs:
            held = self.held(inputs["prefixes"]) if held is None else held
            pairs = zip(inputs["lens"], inputs["ids"], strict=True)
            read = [after_prefixes(self.model, held, lens, ids) for lens, ids in pairs]
        else:
            read = [self.model.features(ids) for ids in inputs["ids"]]
        places = zip(read, inputs["at"], strict=True)
        found = [features.reshape(-1, features.shape[-1])[at] for features, at in places]
        return found[0] if len(found) == 1 else mx.concatenate(found)[inputs["order"]]


def read_prefixes(model: SplitModel, prefixes: mx.array, told: Callable[[], None] = lambda: None) -> Held:
    """Every layer's keys and values of (B, P) prefixes; `told` is called whenever there are new ones."""
    caches = model.recorders(told)
    model.features(prefixes, caches)  # what it returns is never evaluated
    return prefix.held(caches)


def after_prefixes(model: SplitModel, held: Held, lens: mx.array, suffixes: mx.array) -> mx.array:
    """(N, T, D) features of (N, T) suffixes, read after prefixes, of which (N,) lens are real."""
    return model.features(suffixes, prefix.continued(held, lens))

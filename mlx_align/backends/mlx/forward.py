"""From a batch to the log-probabilities of its scored tokens.

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
    Predicted,
    groups,
    places,
    prefixes_and_suffixes,
    whole_sequences,
)
from mlx_align.batch import Batch

Inputs = dict[str, Any]
"""What to read: `ids`, a list of (n, L) sequences, and `at`: (M,) which of all their tokens predict those
that are scored. If prompts are read once, also their tokens, `prefixes`, and `lens`: for each of `ids`, how
many of them belong to each sequence; where prompts are scored, `at` counts their tokens after all others."""


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
        predicted = Predicted.of(batch, starts - 1, apart=False)
        made = self._groups(predicted, batch, ids.shape[1] - 1)
        return {"ids": _of_groups(ids, made), "at": mx.array(places(predicted, made))}

    def shared_inputs(self, batch: Batch) -> Inputs:
        """The same where the prompts are read once, or have been."""
        prefixes, lens, suffixes = prefixes_and_suffixes(batch)
        predicted = Predicted.of(batch, np.zeros_like(lens), apart=True)
        made = self._groups(predicted, batch, suffixes.shape[1])
        rows = len(suffixes) + np.arange(batch.size, dtype=np.int32)
        scored = [] if batch.prompt_mask is None else [Group(rows, prefixes.shape[1])]
        return {
            "prefixes": mx.array(prefixes),
            "lens": [mx.array(lens[group.members]) for group in made],
            "ids": _of_groups(suffixes, made),
            "at": mx.array(places(predicted, [*made, *scored])),
        }

    def _groups(self, predicted: Predicted, batch: Batch, width: int) -> list[Group]:
        return groups(predicted, len(batch.branch_ids), batch.branches, width, ragged=self.ragged)

    def logps(
        self, inputs: Inputs, batch: Batch, temperature: float = 1.0, *, grad: bool, held: Held | None = None
    ) -> mx.array:
        """The flat grid (`Batch.scored`) of float32 log-probabilities, 0 where no mask marks.

        Args:
            inputs: from `inputs`.
            batch: the same batch with MLX arrays.
            temperature: divides the logits.
            grad: whether a derivative will be asked for.
            held: the prompts' keys and values, if they have been read; prompts that are scored are read here.
        """
        ids, marks = batch.branch_ids.reshape(-1), batch.branch_mask.reshape(-1)
        if batch.prompt_mask is not None:
            ids = mx.concatenate([ids, batch.prompt_ids.reshape(-1)])
            marks = mx.concatenate([marks, batch.prompt_mask.reshape(-1)])
        with self.stages.forward():
            logps = selected_logps(
                self.model.logits if temperature == 1 else lambda x: self.model.logits(x) / temperature,
                self._features(inputs, held, scores_prompt=batch.prompt_mask is not None),
                ids[batch.scored],
                chunk_positions(self.vocabulary, self.lanes, gpu_memory(), frugal=self.frugal),
                grad=grad,
                after=self.stages.after,
            )
        return mx.where(marks > 0, mx.zeros(ids.size).at[batch.scored].add(logps), 0.0)

    def held(self, prefixes: mx.array) -> Held:
        """Every layer's keys and values of (B, P) prefixes."""
        with self.stages.forward():
            held, _ = read_prefixes(self.model, prefixes, self.stages.need)
        self.stages.drop()  # what layers made of the last keys and values
        return held

    def _features(self, inputs: Inputs, held: Held | None, *, scores_prompt: bool) -> mx.array:
        """(M, D): those that predict the scored tokens."""
        read: list[mx.array] = []
        if "prefixes" not in inputs:
            read = [self.model.features(ids) for ids in inputs["ids"]]
        else:
            if scores_prompt:
                held, of_prompts = read_prefixes(self.model, inputs["prefixes"], self.stages.need)
                read = [of_prompts]
            elif not held:
                held = self.held(inputs["prefixes"])
            pairs = zip(inputs["lens"], inputs["ids"], strict=True)
            read = [*(after_prefixes(self.model, held, lens, ids) for lens, ids in pairs), *read]
        flat = [features.reshape(-1, features.shape[-1]) for features in read]
        return (flat[0] if len(flat) == 1 else mx.concatenate(flat))[inputs["at"]]


def _of_groups(sequences: Ids, groups: list[Group]) -> list[mx.array]:
    return [mx.array(sequences[group.members, : group.width]) for group in groups]


def read_prefixes(
    model: SplitModel, prefixes: mx.array, told: Callable[[], None] = lambda: None
) -> tuple[Held, mx.array]:
    """Every layer's keys and values of (B, P) prefixes, and their (B, P, D) features.

    Without a use for the features the rest of the last layer is never computed. `told` is called whenever
    there are new keys and values.
    """
    caches = model.recorders(told)
    features = model.features(prefixes, caches)
    return prefix.held(caches), features


def after_prefixes(model: SplitModel, held: Held, lens: mx.array, suffixes: mx.array) -> mx.array:
    """(N, T, D) features of (N, T) suffixes, read after prefixes, of which (N,) lens are real."""
    return model.features(suffixes, prefix.continued(held, lens))

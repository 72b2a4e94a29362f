"""How many bytes a run needs, by moment and by part. Pure arithmetic.

With n tokens read, of which every branch's own follow its prompt (`backends.mlx.prefix`), one layer keeps
until the backward pass, in arrays of the compute type unless said otherwise:

    norms       n * d for the input of each (two, in gemma four), and its output where an adapter reads it
    attention   queries before their norm, scaled queries and the result, n * (heads * head_dim) each; keys
                and values, of a prompt once, and joined with the branch's own for every branch
    scores      (branches, heads, queries, keys) after the softmax; with a soft cap also after its tanh
    MLP         the arrays that act(gate) * up keeps, n * ff each (`MemoryHabits.gated`)
    adapter     n * r for every adapted module; under a 16-bit model the factors in its precision, which for
                experts are many; with DoRA a quantised module's weights, unpacked

Unless prompts are scored, their last layer is read for its keys and values only. Checkpointed attention keeps
everything but the scores, checkpointed layers only their inputs and the prompts' keys and values; the layer
that is computed again is then alive as a whole.

Memory is highest at one of these moments, and what a run needs is the largest of them:

    loss        everything is kept, and the head works on a chunk of logits
    backward    everything is kept, and the last layer's derivative is computed
    prompts     the prompts' last full layer is differentiated, and the branches' down to that one are done;
                a checkpointed layer of the branches has been computed again meanwhile
    update      the optimiser makes the new adapter beside the old one
    evaluation  nothing is kept but the prompts' keys and values
    sampling    a prompt is read, or answers are written side by side and their keys and values grow
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mlx_align.backends.base import MemoryHabits, Work
from mlx_align.config import RunConfig
from mlx_align.data import Shape
from mlx_align.engine.planning.adapted import Adapter
from mlx_align.engine.planning.facts import ModelFacts

Moment = Literal["loss", "backward", "prompts", "update", "evaluation", "sampling"]
FLOAT = 4
"""Bytes of a float32: adapter, gradient, optimiser and log-probabilities are kept in it."""
SLOTS = {"adamw": 2.0, "adam": 2.0, "lion": 1.0, "muon": 1.0, "adafactor": 0.1}
"""What an optimiser remembers, in adapters: two moments, one, or sums of rows and columns."""
CAPPED = 1.2
"""`Work.scores` of a model that caps its scores, at least: it computes them itself, on any device."""
CACHE_STEP, PREFILL = 256, 2048
"""mlx-lm's: a cache grows by so many tokens (old and new then exist), a prompt is read in such pieces."""


@dataclass(frozen=True)
class Footprint:
    """Bytes at one moment, by part.

    Attributes:
        moment: when (this module's head).
        weights: the frozen base.
        adapter: the trained numbers.
        optimiser: what the optimiser remembers.
        gradient: of the adapter, as far as it exists.
        activations: what layers keep until the backward pass, but for the next two.
        keys: keys and values.
        scores: attention scores.
        head: features of the scored tokens, and the logits that exist at a time.
        work: what the moment's own computation needs.
    """

    moment: Moment
    weights: int
    adapter: int
    optimiser: int
    gradient: int = 0
    activations: int = 0
    keys: int = 0
    scores: int = 0
    head: int = 0
    work: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """Name -> bytes."""
        return {name: value for name, value in vars(self).items() if name != "moment"}

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class _Pass:
    """A stretch of tokens that every layer reads: the prompts, or the branches after them."""

    tokens: int
    sequences: int
    queries: int
    keys: int


@dataclass(frozen=True)
class Arithmetic:
    """The bytes of one configuration on one backend.

    Args:
        model: the base.
        adapter: what is trained.
        habits: the backend's.
        config: the run's.
        branches: k, or as many of them as are read at once.
        scores_prompt: `Method.scores_prompt`.
    """

    model: ModelFacts
    adapter: Adapter
    habits: MemoryHabits
    config: RunConfig
    branches: int
    scores_prompt: bool = False

    @property
    def resting(self) -> Footprint:
        """What is there all the time."""
        adapter = FLOAT * self.adapter.parameters
        return Footprint(
            "update",
            weights=self.model.weight_bytes(self.habits.float_bytes),
            adapter=adapter,
            optimiser=round(adapter * SLOTS[self.config.optim.name]),
        )

    def update(self) -> Footprint:
        """Old and new adapter and optimiser, the gradient and the clipped gradient."""
        rest = self.resting
        return replace(
            rest, gradient=2 * rest.adapter, adapter=2 * rest.adapter, optimiser=2 * rest.optimiser
        )

    # A batch with its gradient

    def training(self, shape: Shape) -> Iterator[Footprint]:
        """The moments of one forward and backward pass."""
        own, prompts = self._passes(shape)
        layers, full = self.adapter.layers, self.adapter.layers - (not self.scores_prompt)
        features = self._features(shape, own, prompts, grad=True)
        rest = self.resting
        # Layers that are computed again in turn all add to one gradient, and so do a window's micro-batches.
        whole = self._checkpointing == "layers" or self.config.train.accumulate > 1
        rest = replace(rest, gradient=rest.adapter if whole else 0)
        kept = replace(
            rest,
            activations=layers * self._activations(own) + full * self._activations(prompts),
            keys=layers * (self._keys(own) + self._recorded(prompts)),
            scores=layers * self._kept_scores(own) + full * self._kept_scores(prompts),
            head=features,
        )
        yield replace(kept, moment="loss", head=features + self._chunk(shape, grad=True))
        yield replace(kept, moment="backward", work=self._work(own))
        if prompts.tokens and full:
            left = full - 1
            yield replace(
                rest,
                moment="prompts",
                activations=left * self._activations(own) + full * self._activations(prompts),
                keys=left * self._keys(own) + layers * self._recorded(prompts),
                scores=left * self._kept_scores(own) + full * self._kept_scores(prompts),
                work=self._work(prompts) + self._again(own),
            )

    # Passes without a gradient

    def evaluation(self, shape: Shape) -> Footprint:
        """Scoring a batch: one layer at a time."""
        own, prompts = self._passes(shape)
        habits = self.habits
        plain = habits.work_read if self.model.capped_scores else habits.work_plain  # mlx-lm's own attention
        work = max(self._temporaries(part, plain) for part in (own, prompts))
        head = self._features(shape, own, prompts, grad=False)
        chunk = self._chunk(shape, grad=False)
        return replace(
            self.resting,
            moment="evaluation",
            keys=self.model.layers * self._recorded(prompts) + self._joined(own),
            head=head + (chunk if chunk >= work else 0),
            work=work if work > chunk else 0,
        )

    def sampling(self, prompts: int, samples: int, prompt: int, longest: int) -> Footprint:
        """Answers to prompts, each read by itself, and then all that fit side by side written in step.

        Args:
            prompts: how many.
            samples: answers to each.
            prompt: tokens of the longest prompt.
            longest: tokens of the longest answer there may be.
        """
        each = min(samples, self.habits.side_by_side)
        # A model that caps its scores takes no mask of each sequence's own (`_passes`): one prompt at a time.
        at_once = 1 if self.model.capped_scores else min(prompts, self.habits.side_by_side // each)
        reading = self._read(at_once, prompt)
        writing = self._written(at_once * each, at_once, prompt, longest)
        return replace(max(reading, writing, key=lambda footprint: footprint.total), moment="sampling")

    def _read(self, prompts: int, length: int) -> Footprint:
        """The last prompt is read in pieces, and the others' keys and values are there."""
        ends = {length, length - length % PREFILL} - {0}
        pieces = [_Pass(n, 1, n, end) for end in ends for n in [end - (end - 1) // PREFILL * PREFILL]]
        work = max(self._temporaries(piece, self.habits.work_read) for piece in pieces)
        return replace(self.resting, keys=self._cached(prompts, _in_steps(length)), work=work)

    def _written(self, rows: int, prompts: int, prompt: int, longest: int) -> Footprint:
        """Caches grow layer after layer; each answer has its logits."""
        # Caches of several are made as long as the longest, and grow from there.
        length = _in_steps(prompt + longest) if prompts == 1 else prompt + _in_steps(longest)
        layer = self._cached(rows, length) // self.model.layers
        logits = 3 * FLOAT * rows * self.model.vocabulary
        keys = (self.model.layers + self.habits.growing) * layer
        return replace(self.resting, keys=keys, head=logits, work=self._rescaled())

    def _cached(self, sequences: int, length: int) -> int:
        """Keys and values of sequences of this length, in all layers."""
        return self.model.layers * self._recorded(_Pass(sequences * length, sequences, 0, length))

    # Parts

    @property
    def _width(self) -> int:
        return self.habits.float_bytes or self.model.float_bytes

    @property
    def _checkpointing(self) -> str:
        return self.config.backend.checkpointing

    def _passes(self, shape: Shape) -> tuple[_Pass, _Pass]:
        """The branches' tokens, and the prompts' where those are read once for all branches.

        mlx-lm's attention with a soft cap (Gemma 2) takes no mask of each sequence's own, so there every
        branch is read as one sequence, as `backends.mlx.probe` finds out.
        """
        sequences = shape.rows * self.branches
        if self.branches > 1 and shape.prompt > 1 and not self.model.capped_scores:
            prompt = shape.prompt - 1  # its last token is read with the branches
            own = _Pass(sequences * shape.branch, sequences, shape.branch, prompt + shape.branch)
            return own, _Pass(shape.rows * prompt, shape.rows, prompt, prompt)
        length = shape.prompt + shape.branch - 1
        return _Pass(sequences * length, sequences, length, length), _Pass(0, 0, 0, 0)

    def _activations(self, part: _Pass) -> int:
        """Kept by one layer, without keys, values and scores."""
        if self._checkpointing == "layers":
            return part.tokens * self.model.hidden * self._width
        return self._whole_layer(part)

    def _whole_layer(self, part: _Pass) -> int:
        """The same of a layer that is not computed again, or that has been."""
        return part.tokens * self._token() + (self._copied_weights() if part.tokens else 0)

    def _copied_weights(self) -> int:
        """One layer's factors in another precision than their own, and weights that DoRA unpacks."""
        adapter, numbers = self.adapter, 0
        if self._width < FLOAT:
            as_they_are = adapter.expert_parameters if self.habits.widens else 0
            numbers = (adapter.parameters - as_they_are) // adapter.layers
        if adapter.dora and self.model.quantised:
            numbers += adapter.matrices
        return numbers * self._width

    def _token(self) -> int:
        """Kept by one layer for one token."""
        model, adapter, width = self.model, self.adapter, self._width
        wide = FLOAT if self.habits.widens else width
        queries, keys = model.heads * model.head_dim, model.key_heads * model.head_dim
        # The derivative of A reads the inputs of adapted modules; with dropout, what that left of them.
        attention, mlp = (half and not adapter.dropout for half in (adapter.attention, adapter.mlp))
        gated = self.habits.gated[model.gate] - (not mlp)
        kept = model.norms * model.hidden * wide + (attention + mlp) * model.hidden * width
        kept += (1 + attention) * queries * width
        kept += (queries + keys) * wide if model.query_norms else 0
        kept += gated * model.wide * width
        kept += 3 * model.chosen * model.hidden * width  # read by, written by and weighted for each expert
        kept += adapter.ranks * width
        kept += adapter.expert_inputs * FLOAT if self.habits.widens and width < FLOAT else 0
        kept += 2 * model.head_dim * FLOAT if self.habits.widens else 0  # sines and cosines
        kept += 2 * adapter.inputs * width if adapter.dropout else 0  # the masks, and what they leave
        kept += adapter.outputs * width if adapter.dora else 0
        return kept

    def _scores(self, part: _Pass) -> int:
        """(sequences, heads, queries, keys) scores."""
        return part.sequences * self.model.heads * part.queries * part.keys * self._width

    def _kept_scores(self, part: _Pass) -> int:
        return self._whole_scores(part) if self._checkpointing == "none" else 0

    def _whole_scores(self, part: _Pass) -> int:
        """What a layer keeps of them if it is not computed again, or has been."""
        return self._scores(part) * (2 if self.model.capped_scores else 1)

    def _joined(self, own: _Pass) -> int:
        """Keys and values that the branches attend to: their prompt's and their own."""
        return 2 * own.sequences * own.keys * self.model.key_heads * self.model.head_dim * self._width

    def _keys(self, own: _Pass) -> int:
        return 0 if self._checkpointing == "layers" else self._joined(own)

    def _recorded(self, prompts: _Pass) -> int:
        """Keys and values of the prompts."""
        return 2 * prompts.tokens * self.model.key_heads * self.model.head_dim * self._width

    def _features(self, shape: Shape, own: _Pass, prompts: _Pass, *, grad: bool) -> int:
        """What goes into the head, what of it is scored, and its derivative in float32."""
        tokens = own.tokens + self.scores_prompt * prompts.tokens
        return ((tokens + shape.scored) * self._width + grad * shape.scored * FLOAT) * self.model.hidden

    def _chunk(self, shape: Shape, *, grad: bool) -> int:
        """What the head works with."""
        again = self._checkpointing == "layers"
        chunk = self.habits.chunk_positions(self.model.vocabulary, shape.rows, again)
        copies = self.habits.head if grad else self.habits.head_plain
        own = min(chunk, shape.scored)
        before = min(chunk, shape.scored - own)  # where there are several, the last is often smaller
        capped = 2 if self.model.capped_logits else 0
        positions = (copies.own + capped) * own + copies.before * before
        return round(positions * self.model.vocabulary * FLOAT)

    def _temporaries(self, part: _Pass, work: Work) -> int:
        """What computing a layer, or its derivative, needs besides what is kept."""
        wide = part.tokens * self.model.wide * self._width
        # What of the MLP is computed again has gone when the derivative comes to the attention.
        scores = max(work.scores, CAPPED) if self.model.capped_scores else work.scores
        attention = scores * self._scores(part) + min(work.wide, self.habits.work.wide) * wide
        narrow = work.narrow * part.tokens * self.model.hidden * self._width
        return round(max(attention, work.wide * wide) + narrow) + self._rescaled()

    def _rescaled(self) -> int:
        """The weights that DoRA makes at each call of a module."""
        return 3 * FLOAT * self.adapter.largest if self.adapter.dora else 0

    def _work(self, part: _Pass) -> int:
        """The derivative of one layer; where the layer or its scores are computed again, that with it."""
        if self._checkpointing == "layers":
            return self._temporaries(part, self.habits.work_again) + self._again(part)
        work = self.habits.work
        if self._checkpointing == "attention":
            work = replace(work, scores=self.habits.scores_again)
        return self._temporaries(part, work)

    def _again(self, part: _Pass) -> int:
        """A layer that is computed again, if layers are."""
        if self._checkpointing != "layers":
            return 0
        return self._whole_layer(part) + self._joined(part) + self._whole_scores(part)


def _in_steps(length: int) -> int:
    """The tokens that a cache of so many has room for."""
    return -(-length // CACHE_STEP) * CACHE_STEP

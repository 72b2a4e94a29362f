"""What the engine asks of a framework. Nothing outside a backend's folder knows more than this page.

A Backend loads a model and makes a Policy; a Policy is a base model with one trainable adapter. States
cross this border as named numpy arrays, so checkpoints do not depend on the framework that wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.positions import Positions
from mlx_align.batch import Batch
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.methods.base import Hyperparameters, Method

T = TypeVar("T")
State = dict[str, NDArray[Any]]
"""Named arrays: the neutral form of adapters, optimiser slots and gradients."""
SLOPES_MOST = 4096.0
"""Under a float16 model the entries of d loss / d logps are scaled to be at most 1, and their sum, without
signs, at most this: an adapter's gradient is a sum over tokens, and a float16 ends at 65,504."""
SLOPES_LEAST = 1e-30
"""They are divided by no less than this, so that a gradient of zero stays zero."""


@dataclass(frozen=True)
class Objective:
    """A method with its numbers, and how its log-probabilities are to be had.

    Attributes:
        method: the mathematics.
        hp: its numbers.
        temperature: divides the logits.
        branches_at_once: so many branches of each prompt are read at a time, at the most; None: all. The
            gradient is the same: a loss adds up over branches, and a prompt's keys and values get the sum of
            what comes back from all of them, once.
    """

    method: Method
    hp: Hyperparameters
    temperature: float = 1.0
    branches_at_once: int | None = None


@dataclass(frozen=True)
class Scores:
    """What one micro-batch came to, on the host.

    Attributes:
        sums: term name -> the term summed over the micro-batch (see `methods.base.Loss`).
        metrics: name -> (B,) float32, one value a row.
        logps: (N, T) float32, the branches' token log-probabilities.
    """

    sums: dict[str, float]
    metrics: dict[str, NDArray[np.float32]]
    logps: NDArray[np.float32]


@dataclass(frozen=True)
class Update:
    """What one optimiser update came to.

    Attributes:
        grad_norm: global L2 norm of the accumulated gradient, before clipping.
        applied: False if the gradient was not finite; adapter and optimiser are then unchanged.
    """

    grad_norm: float
    applied: bool


@dataclass(frozen=True)
class MemoryUse:
    """What a device is asked to hold.

    Attributes:
        active: bytes in use now; 0: unknown.
        peak: at the highest.
        limit: what the machine can give; 0: unknown.
        traces: graphs traced so far.
        overkept: bytes of freed buffers kept for reuse beyond those that the framework was told to keep; 0
            where it is told nothing.
    """

    active: int
    peak: int
    limit: int
    traces: int = 0
    overkept: int = 0


@dataclass(frozen=True)
class Work:
    """Arrays alive only while one layer is computed or differentiated, counted in arrays of one kind.

    Attributes:
        scores: (heads, queries, keys) attention scores.
        wide: (tokens, the MLP's width).
        narrow: (tokens, the model's width).
    """

    scores: float
    wide: float
    narrow: float


@dataclass(frozen=True)
class Chunks:
    """Arrays alive while the head works, counted in float32 logits of one chunk of positions.

    Attributes:
        own: of the chunk that is worked on.
        before: of the chunk before it, which are still waited for.
    """

    own: float
    before: float


@dataclass(frozen=True)
class MemoryHabits:
    """How a backend uses memory on its device: what `engine.planning` cannot know by itself.

    Attributes:
        float_bytes: of one weight and one activation; None: as the model's files have them.
        widens: whether norms, rotations and the products with experts' factors, for want of kernels, are
            computed and kept in float32.
        chunk_positions: (vocabulary, rows, whether layers are checkpointed) -> positions whose logits
            exist at a time.
        head: with a gradient.
        head_plain: without.
        gated: activation's name -> arrays as wide as the MLP that act(gate(x)) * up(x) keeps.
        work: while a layer is differentiated.
        work_again: the same where the layer is computed a second time first.
        scores_again: `Work.scores` where only they are.
        work_plain: while a layer is computed and no gradient wanted.
        work_read: the same where a prompt is read to be continued.
        side_by_side: sequences that are decoded together.
        growing: layers whose caches exist twice while those of all layers grow.
        reserve: what `MemoryUse.limit` counts but the operating system and the process itself need.
    """

    float_bytes: int | None
    widens: bool
    chunk_positions: Callable[[int, int, bool], int]
    head: Chunks
    head_plain: Chunks
    gated: Mapping[str, int]
    work: Work
    work_again: Work
    scores_again: float
    work_plain: Work
    work_read: Work
    side_by_side: int
    growing: int
    reserve: int


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_tokens: the longest completion.
        temperature: divides the logits; 0 is greedy and draws nothing.
        top_p: only the fewest tokens that hold this share of the probability; 1 is off.
        top_k: only the k likeliest tokens; 0 is off.
        min_p: only tokens at least this likely, as a share of the likeliest one; 0 is off.
        repetition_penalty: what the logits of tokens in prompt and completion are divided by, or multiplied
            if negative (Keskar et al. 2019, arXiv:1909.05858); 1 is off.

    The three filters look at the distribution before the temperature, as mlx-lm's do; a token must pass all.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


Ended = Callable[[Sequence[int]], bool]
"""Asked after each token whether the completion so far is over by itself (stop strings)."""


@dataclass(frozen=True)
class Generation:
    """One sampled continuation.

    Attributes:
        token_ids: exactly as sampled, the stop token included.
        finished: it ended by itself; False: it was cut off after `max_tokens`.
        by_text: what ended it was not a stop token but its text, so the last id belongs to the text.
    """

    token_ids: tuple[int, ...]
    finished: bool
    by_text: bool = False

    @property
    def text_ids(self) -> tuple[int, ...]:
        """The ids without the stop token that ended them."""
        return self.token_ids[:-1] if self.finished and not self.by_text else self.token_ids


class World(Protocol):
    """The ranks that train together: processes on several machines or GPUs, each with the whole model.

    Every rank makes the same calls in the same order; a call returns when all ranks have made it.

    Attributes:
        rank: which of them this process is; rank 0 speaks and writes for all.
        size: how many there are.
    """

    rank: int
    size: int

    def gather(self, value: T) -> list[T]:
        """What every rank gave, by rank. The values are made of JSON's types, and numbers stay exact."""

    def sum(self, state: State) -> State:
        """The arrays of all ranks added up; every rank gives the same names, shapes and types."""


class Alone:
    """The `World` of a single process."""

    rank, size = 0, 1

    def gather(self, value: T) -> list[T]:
        """The value."""
        return [value]

    def sum(self, state: State) -> State:
        """The state."""
        return state


ALONE = Alone()


class Policy(Protocol):
    """A base model and its trainable adapter.

    Attributes:
        notes: what this model does not allow in the usual, faster way, as sentences for a person.
        positions: how it chooses between two lists of position factors (LongRoPE); None: it has one at most.
    """

    notes: tuple[str, ...]
    positions: Positions | None

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""

    def logps(self, batch: Batch, *, temperature: float = 1.0) -> NDArray[np.float32]:
        """(N, T) log-probabilities of the branch tokens under the policy; 0 where masked. No gradient.

        Args:
            batch: the rows.
            temperature: divides the logits.
        """

    def next_logps(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(N, V) log-probabilities of every token to come next after each of N prompts. No gradient.

        Args:
            prompts: token ids, at least one a prompt.
        """

    def evaluate(self, batch: Batch, objective: Objective) -> Scores:
        """The loss and metrics of a batch, without gradient, with dropout off."""

    def accumulate(
        self, batch: Batch, objective: Objective, counts: Mapping[str, float], *, seed: int
    ) -> Scores:
        """Add one micro-batch's gradient to the accumulator.

        Args:
            batch: the rows.
            objective: method and hyperparameters.
            counts: term name -> denominator over the whole accumulation window.
            seed: seeds what is random in the forward pass (dropout). It is derived from the data position,
                so a resumed run draws the same numbers without saving a generator's state.
        """

    def join(self, world: World) -> None:
        """From now on sum the gradient over these ranks: before each update, and in `training_state`.

        Raises:
            UsageError: this backend cannot.
        """

    def update(self, learning_rate: float) -> Update:
        """Clip the accumulated gradient, apply it if it is finite, and clear the accumulator."""

    def discard(self) -> None:
        """Clear the accumulator without applying it."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: Sampling,
        stop_ids: Sequence[int],
        samples: int = 1,
        ended: Ended | None = None,
        seed: int = 0,
    ) -> list[list[Generation]]:
        """Continue prompts, each read once and all of its samples decoded together.

        Only where there are more samples than a backend decodes side by side is a prompt read again for them.

        Args:
            prompts: token ids, at least one a prompt.
            sampling: how tokens are chosen.
            stop_ids: tokens that end a completion.
            samples: continuations of each prompt.
            ended: asked after every other token whether the completion is over.
            seed: with the numbers of prompt and sample it seeds what is drawn; other sequences, and how many
                of them are decoded side by side, change no random number.

        Returns:
            For each prompt its continuations.
        """

    def adapter_state(self) -> State:
        """The adapter's arrays under mlx-lm's names."""

    def load_adapter_state(self, state: State) -> None:
        """Replace the adapter's arrays.

        Raises:
            UsageError: names or shapes differ from this adapter's.
        """

    def training_state(self) -> State:
        """Optimiser slots and accumulated gradient: with the adapter, all that a resume needs."""

    def load_training_state(self, state: State) -> None:
        """Put back what `training_state` returned."""

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter into an existing folder, in mlx-lm's format."""

    def memory(self) -> MemoryUse:
        """Memory in use."""


class Backend(Protocol):
    """A framework on a device."""

    @property
    def device(self) -> str:
        """For example "mlx:metal", "mlx:cpu" or "mlx:cuda"."""

    def versions(self) -> dict[str, str]:
        """Versions of the libraries it stands on."""

    def advice(self) -> str | None:
        """One sentence about something that makes this machine slow and how to mend it, or None."""

    def memory(self) -> MemoryUse:
        """Memory in use, and what the device can give."""

    def habits(self) -> MemoryHabits | None:
        """How it uses memory, or None where nobody has measured that."""

    def load_policy(
        self,
        model: Path,
        adapter: AdapterConfig,
        optim: OptimConfig | None,
        seed: int,
        longest: int | None = None,
    ) -> Policy:
        """Load a model folder and put an adapter on it.

        Args:
            model: a folder in the Hugging Face layout.
            adapter: its shape, and where it starts.
            optim: the optimiser, or None for a policy that will only generate or score.
            seed: seeds the adapter's first values.
            longest: tokens of the longest sequence among its rows. A model that turns positions of short
                and of long sequences by other factors (LongRoPE) reads all of them as one of this length, so
                that a row is the same whatever else is in its batch. None: each batch by its own width.
                Phi MoE on torch keeps the factors for short ones, and its loudness alone goes by the length,
                as in transformers.

        Raises:
            UsageError: the folder is not a model this backend can load, or no layer matches.
        """

    def load_for_generation(self, model: Path, adapter: Path | None) -> Policy:
        """Load a model folder, with a saved adapter or without one, for generation and scoring only."""


class BackendFactory(Protocol):
    """What a backend's package exports as `create`."""

    def __call__(self, config: BackendConfig) -> Backend:
        """The backend on the configured device."""

"""What is measured: model shapes, row lengths, and the cells that combine them with a method."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

METHODS = ("orpo", "dpo", "simpo")
HYPERPARAMETERS: dict[str, dict[str, float]] = {
    "orpo": {"beta": 0.1},
    "dpo": {"beta": 0.1},
    "simpo": {"beta": 2.0, "gamma": 1.0},
}


@dataclass(frozen=True)
class Shape:
    """A Qwen3 architecture with tied embeddings."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    def linears(self) -> dict[str, tuple[int, int]]:
        """The projections of one layer: name -> (inputs, outputs)."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (self.hidden, q),
            "self_attn.k_proj": (self.hidden, kv),
            "self_attn.v_proj": (self.hidden, kv),
            "self_attn.o_proj": (q, self.hidden),
            "mlp.gate_proj": (self.hidden, self.intermediate),
            "mlp.up_proj": (self.hidden, self.intermediate),
            "mlp.down_proj": (self.intermediate, self.hidden),
        }

    def parameters(self) -> int:
        """All weights, the shared embedding once."""
        linear = sum(inputs * outputs for inputs, outputs in self.linears().values())
        norms = 2 * self.hidden + 2 * self.head_dim
        return self.layers * (linear + norms) + self.hidden + self.vocab * self.hidden


@dataclass(frozen=True)
class Lengths:
    """Row lengths in tokens: fixed, or lognormal about these means where a spread is given."""

    prompt: int
    response: int
    prompt_spread: float = 0.0
    response_spread: float = 0.0
    shortest: int = 16
    longest: int = 1024


@dataclass(frozen=True)
class Cell:
    """One comparison: every arm does this.

    `warmup` is how many first steps the steady-state figures leave out. The rate `lr` is high, so that the
    first update shows in the loss of the next step, where the gate looks for it.
    """

    name: str
    method: str
    shape: Shape
    lengths: Lengths
    steps: int
    warmup: int
    checkpointing: bool = False
    batch: int = 2
    rank: int = 8
    scale: float = 2.0
    lr: float = 5e-3
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """As JSON values, with the size of the model."""
        return {**asdict(self), "parameters": self.shape.parameters()}


def shape_41m(vocab: int = 32_000) -> Shape:
    """The headline's model: 41.6 million weights at V = 32,000."""
    return Shape(512, 8, 1536, 8, 4, 64, vocab)


def shape_small(vocab: int) -> Shape:
    """The sweep's body, small enough for 36 cells on a small machine: 3.1 million weights + embedding."""
    return Shape(256, 4, 768, 4, 2, 64, vocab)


ULTRAFEEDBACK = Lengths(prompt=180, response=220, prompt_spread=0.8, response_spread=0.5)
VOCABULARIES = {"16k": 16_384, "152k": 151_936}


def headline() -> list[Cell]:
    """The issue's baseline: 12 steps of 2 rows are one epoch of 24 rows."""
    return [Cell(f"headline-{method}", method, shape_41m(), ULTRAFEEDBACK, 12, 3) for method in METHODS]


def long_prompt() -> list[Cell]:
    """The same model at prompt 1000, response 200."""
    return [Cell(f"long-{method}", method, shape_41m(), Lengths(1000, 200), 4, 2) for method in METHODS]


def sweep() -> list[Cell]:
    """Prompts x vocabularies x checkpointing x methods.

    Four steps, two of them steady; half as many of the largest rows at the large vocabulary, where one step
    takes a peer up to a minute, so that a repeat of all arms stays within some minutes.
    """
    return [
        Cell(
            f"sweep-{method}-p{prompt}-v{name}{'-ckpt' if checkpointing else ''}",
            method,
            shape_small(vocab),
            Lengths(prompt, 200),
            steps=2 * _steady(prompt, vocab),
            warmup=_steady(prompt, vocab),
            checkpointing=checkpointing,
        )
        for method in METHODS
        for prompt in (50, 200, 1000)
        for name, vocab in VOCABULARIES.items()
        for checkpointing in (False, True)
    ]


def _steady(prompt: int, vocab: int) -> int:
    """How many steps of a sweep cell are steady; as many come before them."""
    return 1 if prompt == 1000 and vocab == VOCABULARIES["152k"] else 2


def quick() -> list[Cell]:
    """A few seconds of work for each method: for trying out, never for figures."""
    shape = Shape(64, 2, 128, 2, 1, 32, 512)
    lengths = Lengths(24, 20, prompt_spread=0.5, response_spread=0.4, shortest=4, longest=64)
    return [Cell(f"quick-{method}", method, shape, lengths, 3, 1) for method in METHODS]


GROUPS = {"headline": headline, "long": long_prompt, "sweep": sweep, "quick": quick}

"""What an export is measured by: what the policy that was trained, and its base, say after a few beginnings.

It travels with the export, so that it can be verified again later, where neither run nor base are at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import AlignError

PROMPTS = (
    "What is 17 + 26?",
    "Write one sentence about the sea.",
    "Name three colours, one on each line.",
    "Explain in two sentences why the sky is blue.",
    "How do I boil an egg?",
    "Translate 'good morning' into French.",
    "Write a Python function that reverses a string:\n\n\tdef reverse(text):",
    "Café, naïve, 数字 12345, don't and 🙂: which of these are English words?",
)
"""What the policy is asked, each as one user's turn."""

LENGTHS = (0, 4, 8, 16)
"""The policy is looked at after so many tokens of its own answer."""

TOKENS = 64
"""Of each next token's distribution the likeliest so many are kept; all others count as one."""

DIGITS = 6
"""Decimals of a log-probability that are kept: as many as float32 logits of usual size have."""


class Reader(Protocol):
    """An exported model as a program loads it.

    Attributes:
        name: the program, for a person: "llama.cpp", "transformers 5.23".
    """

    name: str

    def next_logps(self, prompts: Sequence[Sequence[int]], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, K) log-probabilities of given tokens to come next after each of N prompts.

        Args:
            prompts: token ids.
            tokens: (N, K) the ids that are asked about.

        Raises:
            AlignError: the program cannot answer.
        """

    def encode(self, text: str) -> list[int] | None:
        """The ids that the program's own tokenizer makes of a text; None if it has none."""


@dataclass(frozen=True)
class Evidence:
    """What was seen of a policy.

    Attributes:
        contexts: N sequences of token ids.
        tokens: (N, K) the policy's likeliest next tokens, likeliest first.
        policy: (N, K) float32 log-probabilities of these tokens under the policy.
        base: (N, K) the same under the bare base model.
        texts: pairs of a text and its token ids, for a loader's own tokenizer.
        precision: what the policy was computed in: "f32", "f16" or "bf16".
        device: where: "mlx:cpu".
    """

    contexts: tuple[tuple[int, ...], ...]
    tokens: NDArray[np.int64]
    policy: NDArray[np.float32]
    base: NDArray[np.float32]
    texts: tuple[tuple[str, tuple[int, ...]], ...]
    precision: str
    device: str

    def json(self) -> dict[str, Any]:
        """The same as values that JSON has."""
        return {
            "precision": self.precision,
            "device": self.device,
            "texts": [[text, list(ids)] for text, ids in self.texts],
            "contexts": [list(ids) for ids in self.contexts],
            "tokens": self.tokens.tolist(),
            "policy": _rounded(self.policy),
            "base": _rounded(self.base),
        }

    @classmethod
    def from_json(cls, facts: Any) -> Evidence:
        """Read back what `json` made.

        Raises:
            AlignError: it is damaged.
        """
        try:
            evidence = cls(
                contexts=tuple(tuple(int(token) for token in ids) for ids in facts["contexts"]),
                tokens=np.array(facts["tokens"], np.int64),
                policy=np.array(facts["policy"], np.float32),
                base=np.array(facts["base"], np.float32),
                texts=tuple((str(text), tuple(int(token) for token in ids)) for text, ids in facts["texts"]),
                precision=str(facts["precision"]),
                device=str(facts["device"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise AlignError(f"the evidence cannot be read: {error!r}", where="evidence") from None
        shape = evidence.tokens.shape
        whole = len(shape) == 2 and shape[0] == len(evidence.contexts) > 0
        if not whole or evidence.policy.shape != shape or evidence.base.shape != shape:
            raise AlignError("the evidence is not whole: its tables differ in size", where="evidence")
        return evidence


def contexts(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """Each prompt with the first few tokens of its answer, as far as it goes; none of them twice.

    Args:
        prompts: token ids.
        answers: the ids of the policy's greedy answers, without what ended them.
    """
    made = [
        (*prompt, *answer[:length])
        for prompt, answer in zip(prompts, answers, strict=True)
        for length in LENGTHS
        if length <= len(answer)
    ]
    return tuple(dict.fromkeys(made))


def likeliest(logps: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N, K) the tokens with the largest of (N, V) log-probabilities, largest first; K = V if V is small."""
    return np.argsort(-logps, axis=-1, kind="stable")[:, :TOKENS].astype(np.int64)


def unlike(evidence: Evidence, encode: Callable[[str], list[int] | None]) -> tuple[str, ...] | None:
    """The texts that a loader's tokenizer reads as other tokens; None if it has no tokenizer."""
    found = [(text, ids, encode(text)) for text, ids in evidence.texts]
    if any(read is None for _, _, read in found):
        return None
    return tuple(text for text, ids, read in found if tuple(read or ()) != ids)


def _rounded(values: NDArray[np.float32]) -> list[list[float]]:
    rows: list[list[float]] = np.round(values.astype(np.float64), DIGITS).tolist()
    return rows

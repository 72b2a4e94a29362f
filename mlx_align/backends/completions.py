"""Sampled completions while they grow: what the backends share.

Nothing here depends on the framework, not even what is random: one number in [0, 1) for each token is drawn
on the host, the same whatever is decoded beside it, and on any backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.base import Ended, Generation, Sampling


@dataclass(frozen=True)
class Asked:
    """What one call of `Policy.generate` asks for; the fields are its arguments."""

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    stop_ids: Sequence[int]
    samples: int
    ended: Ended | None
    seed: int


@dataclass
class Row:
    """One completion.

    Attributes:
        asked: what it is sampled for.
        prompt: its prompt's number.
        sample: its number among the prompt's samples.
        ids: the tokens so far.
        result: the whole completion, when it is over.
    """

    asked: Asked
    prompt: int
    sample: int
    ids: list[int] = field(default_factory=list)
    result: Generation | None = None

    @property
    def prompt_ids(self) -> Sequence[int]:
        """The tokens that it continues."""
        return self.asked.prompts[self.prompt]

    @property
    def most(self) -> int:
        """Tokens that it may come to have, its prompt's included."""
        return len(self.prompt_ids) + self.asked.sampling.max_tokens

    def add(self, token: int) -> bool:
        """Take the next token, unless it is over; returns whether it is over now."""
        if self.result is None:
            self.ids.append(token)
            self.result = self._over()
        return self.result is not None

    def _over(self) -> Generation | None:
        asked, ids = self.asked, self.ids
        if ids[-1] in asked.stop_ids:
            return Generation(tuple(ids), finished=True)
        if asked.ended is not None and asked.ended(ids):
            return Generation(tuple(ids), finished=True, by_text=True)
        return None if len(ids) < asked.sampling.max_tokens else Generation(tuple(ids), finished=False)


Group = list[Row]
"""Rows that continue the same prompt."""


def groups_of(asked: Asked) -> list[Group]:
    """A group for each prompt, none begun."""
    return [
        [Row(asked, prompt, sample) for sample in range(asked.samples)]
        for prompt in range(len(asked.prompts))
    ]


def apart(groups: Sequence[Group], border: float) -> Iterator[tuple[bool, list[Group]]]:
    """The groups whose completions may come to be long, apart from those whose cannot (LongRoPE).

    Args:
        groups: all of them.
        border: tokens of the longest sequence that is short, prompt and completion together.

    Yields:
        whether they may, and the groups; none where there are none of a kind.
    """
    for long in (False, True):
        if kind := [group for group in groups if (group[0].most > border) == long]:
            yield long, kind


def waves(groups: Sequence[Group], width: int, *, together: bool = True) -> Iterator[list[Group]]:
    """The groups that are decoded at the same time.

    Prompts of similar length come together, so that little is padded.

    Args:
        groups: all of them; one of more than `width` rows comes in several parts.
        width: the most rows of a wave.
        together: whether a wave may have more than one prompt.
    """
    wave: list[Group] = []
    for group in sorted(groups, key=lambda rows: len(rows[0].prompt_ids)):
        for part in (group[begin : begin + width] for begin in range(0, len(group), width)):
            if wave and (not together or sum(map(len, wave)) + len(part) > width):
                yield wave
                wave = []
            wave.append(part)
    if wave:
        yield wave


def results(groups: Sequence[Group]) -> list[list[Generation]]:
    """The completions of groups that are over."""
    return [[row.result for row in group if row.result is not None] for group in groups]


def uniforms(rows: Sequence[Row]) -> NDArray[np.float32]:
    """(N, max_tokens) numbers in [0, 1): a stream for each row, seeded by the numbers that name it."""
    streams = [np.random.default_rng([row.asked.seed, row.prompt, row.sample]) for row in rows]
    count = rows[0].asked.sampling.max_tokens
    return np.stack([stream.random(count, np.float32) for stream in streams])

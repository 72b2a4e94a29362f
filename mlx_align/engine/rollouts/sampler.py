"""From prompts to completions, as token ids and as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_align.backends.base import Generation, Policy, Sampling
from mlx_align.config import SamplingConfig
from mlx_align.data import ChatTokenizer, Example
from mlx_align.engine.rollouts.prompts import draw_seed
from mlx_align.rewards import Sampled

TOGETHER = 64
"""Completions asked for in one call: enough to be decoded wide, few enough to answer a request to stop."""


class StoppedError(Exception):
    """A stop was requested before all completions were there."""


@dataclass(frozen=True)
class Completed:
    """One completion.

    Attributes:
        ids: exactly as sampled, the token that ended it included.
        sampled: what rewards see of it.
    """

    ids: tuple[int, ...]
    sampled: Sampled


@dataclass(frozen=True)
class Sampler:
    """Has a policy answer prompts.

    Attributes:
        tokenizer: turns ids into text.
        config: how completions are drawn.
    """

    tokenizer: ChatTokenizer
    config: SamplingConfig

    def sample(
        self,
        policy: Policy,
        examples: Sequence[Example],
        samples: int,
        *,
        seed: Sequence[int],
        greedy: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> list[list[Completed]]:
        """For each prompt its completions.

        Args:
            policy: who answers.
            examples: the prompts.
            samples: completions of each.
            seed: the run's seed, and whatever tells this call from others.
            greedy: take the likeliest token always; the filters then say nothing.
            progress: called with (completions done, completions in all) now and then.
            stopped: asked now and then.

        Raises:
            StoppedError: `stopped` said so.
        """
        done: list[list[Completed]] = []
        step = max(1, TOGETHER // samples)
        for first in range(0, len(examples), step):
            if stopped():
                raise StoppedError
            part = examples[first : first + step]
            generations = policy.generate(
                [example.prompt_ids for example in part],
                sampling=self._greedy() if greedy else self._drawn(),
                stop_ids=sorted(self.tokenizer.stop_ids),
                samples=samples,
                ended=self._ended if self.config.stop else None,
                seed=draw_seed(*seed, first),
            )
            done += [
                [self._completed(example, generation) for generation in group]
                for example, group in zip(part, generations, strict=True)
            ]
            progress(len(done) * samples, len(examples) * samples)
        return done

    def _drawn(self) -> Sampling:
        return Sampling(**self.config.model_dump(exclude={"stop"}))

    def _greedy(self) -> Sampling:
        return Sampling(max_tokens=self.config.max_tokens, repetition_penalty=self.config.repetition_penalty)

    def _ended(self, ids: Sequence[int]) -> bool:
        """Whether the text so far ends with, or has just passed, one of the stop texts.

        A token is at least a byte, so a text of n bytes that is new began in the last n tokens.
        """
        longest = max(len(text.encode()) for text in self.config.stop)
        tail = self.tokenizer.decode(ids[-longest - 1 :])
        return any(text in tail for text in self.config.stop)

    def _completed(self, example: Example, generation: Generation) -> Completed:
        sampled = Sampled(
            prompt=example.prompt_text,
            completion=self.tokenizer.decode(generation.text_ids),
            answer=example.answer,
            row=example.extra,
            tokens=len(generation.token_ids),
            truncated=not generation.finished,
        )
        return Completed(generation.token_ids, sampled)

"""One rollout's completions with their rewards: sampled, scored, and refilled where groups say nothing.

Refilling is DAPO's dynamic sampling (Yu et al. 2025, arXiv:2503.14476, section 3.2): a group whose rewards
are all equal has no gradient, so another prompt takes its place.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlx_align.backends.base import Policy
from mlx_align.data import Example
from mlx_align.engine.reporter import Reporter
from mlx_align.engine.rollouts.advantages import Floats, signal
from mlx_align.engine.rollouts.prompts import Prompts
from mlx_align.engine.rollouts.sampler import Completed, Sampler
from mlx_align.methods.grpo import GrpoHyperparameters, overlong_penalty
from mlx_align.rewards import Failure, Scorer

OVERLONG = "overlong"
"""What DAPO's length penalty is called beside the rewards."""


@dataclass(frozen=True)
class Group:
    """One prompt's completions.

    Attributes:
        row: the training row.
        completed: G completions.
        values: (G, R) each reward's value, NaN where it failed.
        totals: (G,) their weighted sums, NaN where one failed.
    """

    row: int
    completed: Sequence[Completed]
    values: Floats
    totals: Floats

    @property
    def speaks(self) -> bool:
        """Whether anything can be learnt from it."""
        return bool(signal(self.totals[None])[0])


@dataclass
class Collected:
    """A rollout's groups, and what it took to get them.

    Attributes:
        groups: Q groups.
        failures: (row name, failure) of all that was scored, replaced groups included.
        refilled: groups that were replaced.
        tokens: sampled, replaced groups included.
        sampling_seconds, scoring_seconds: how long that took.
    """

    groups: list[Group] = field(default_factory=list)
    failures: list[tuple[str, Failure]] = field(default_factory=list)
    refilled: int = 0
    tokens: int = 0
    sampling_seconds: float = 0.0
    scoring_seconds: float = 0.0

    @property
    def values(self) -> Floats:
        """(N, R)."""
        return np.concatenate([group.values for group in self.groups])

    @property
    def totals(self) -> Floats:
        """(Q, G)."""
        return np.stack([group.totals for group in self.groups])

    @property
    def completed(self) -> list[Completed]:
        """All N completions."""
        return [one for group in self.groups for one in group.completed]


@dataclass(frozen=True)
class Collector:
    """Asks prompts and scores the answers.

    Attributes:
        examples: the training rows.
        prompts: which of them are asked when.
        hp: the method's numbers, `length` known where it is used.
        sampler: asks.
        scorer: scores.
        report: is told how far it is.
        clock: monotonic seconds.
    """

    examples: Sequence[Example]
    prompts: Prompts
    hp: GrpoHyperparameters
    sampler: Sampler
    scorer: Scorer
    report: Reporter
    clock: Callable[[], float] = time.monotonic

    @property
    def names(self) -> tuple[str, ...]:
        """What the columns of `Group.values` are called."""
        return (*self.scorer.names, *((OVERLONG,) if self.hp.overlong_buffer else ()))

    def collect(self, policy: Policy, number: int, stopped: Callable[[], bool]) -> Collected:
        """The groups of a rollout, the same for the same policy whenever it is asked for.

        Raises:
            StoppedError: `stopped` said so.
        """
        result = Collected()
        result.groups = self._ask(policy, self.prompts.of(number), (number, 0), stopped, result)
        spare = self.prompts.spare(number)
        for attempt in range(1, self.hp.refill_limit + 1):
            silent = [place for place, group in enumerate(result.groups) if not group.speaks]
            rows = tuple(itertools.islice(spare, len(silent)))
            if not rows:
                break
            for place, group in zip(
                silent, self._ask(policy, rows, (number, attempt), stopped, result), strict=False
            ):
                if group.speaks:
                    result.groups[place] = group
                    result.refilled += 1
        return result

    def _ask(
        self,
        policy: Policy,
        rows: Sequence[int],
        key: tuple[int, int],
        stopped: Callable[[], bool],
        result: Collected,
    ) -> list[Group]:
        examples, began = [self.examples[row] for row in rows], self.clock()
        self.report.phase("sampling")
        groups = self.sampler.sample(
            policy,
            examples,
            self.hp.group_size,
            seed=(self.prompts.seed, *key),
            progress=self.report.progress("sampling"),
            stopped=stopped,
        )
        sampled = self.clock()
        self.report.phase("scoring")
        values, totals = self._scored(examples, groups, result)
        result.sampling_seconds += sampled - began
        result.scoring_seconds += self.clock() - sampled
        result.tokens += sum(len(one.ids) for group in groups for one in group)
        return [Group(*parts) for parts in zip(rows, groups, values, totals, strict=True)]

    def _scored(
        self, examples: Sequence[Example], groups: Sequence[Sequence[Completed]], result: Collected
    ) -> tuple[Floats, Floats]:
        """(Q, G, R) values and (Q, G) totals."""
        completions = [one.sampled for group in groups for one in group]
        scored = self.scorer.score(completions)
        size = self.hp.group_size
        result.failures += [(examples[failure.index // size].name, failure) for failure in scored.failures]
        values, totals = scored.values, scored.total
        if self.hp.overlong_buffer:
            penalties = np.array([self._penalty(one.tokens) for one in completions], np.float64)
            values, totals = np.column_stack([values, penalties]), totals + penalties
        return values.reshape(len(groups), size, -1), totals.reshape(len(groups), size)

    def _penalty(self, tokens: int) -> float:
        length = self.hp.length
        if length == "auto":
            raise ValueError("the overlong penalty needs a length")
        return overlong_penalty(tokens, length=length, buffer=self.hp.overlong_buffer)

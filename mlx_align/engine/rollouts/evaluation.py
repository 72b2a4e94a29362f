"""What the policy's own answers to held-out prompts are worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mlx_align.backends.base import Policy
from mlx_align.config import RunConfig
from mlx_align.data import Example
from mlx_align.engine.reporter import Reporter
from mlx_align.engine.rollouts.sampler import Completed, Sampler
from mlx_align.engine.rollouts.telling import failures
from mlx_align.engine.state import UNSCORED
from mlx_align.rewards import Scored, Scorer

EVALUATION = 2**31
"""Tells the draws of an evaluation from those of any rollout."""


class RewardEvaluation:
    """Scores greedy answers and, if asked to, several drawn ones.

    Args:
        examples: the held-out prompts.
        config: the run's.
        sampler: has the policy answer.
        scorer: scores the answers.
        report: is told of rewards that fail.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        config: RunConfig,
        sampler: Sampler,
        scorer: Scorer,
        report: Reporter,
    ) -> None:
        self._examples, self._sampler, self._scorer, self._report = examples, sampler, scorer, report
        self._pass_k, self._seed = config.eval.pass_k, config.train.seed

    def measure(self, policy: Policy, progress: Callable[[int, int], None]) -> dict[str, float]:
        """Mean rewards, share of right answers, length and share cut off, all greedy; and pass@k.

        An answer is right if the first reward gives it at least 1; one that could not be scored is not. The
        mean is over those that could; the share of the others is UNSCORED, which is not there where it is 0,
        and `TrainerState.note_eval` looks at it. The prompts are drawn with the same random numbers at every
        evaluation.
        """
        count = len(self._examples)
        every = count * (1 + self._pass_k)
        greedy = self._sampler.sample(
            policy, self._examples, 1, seed=(self._seed,), greedy=True,
            progress=lambda done, _: progress(done, every),
        )  # fmt: skip
        scored = self._score(greedy)
        answers = [one.sampled for group in greedy for one in group]
        metrics = {
            "reward": _mean(scored.total.tolist()),
            "exact": float((scored.values[:, 0] >= 1).mean()),
            "length": float(np.mean([answer.tokens for answer in answers])),
            "truncated": float(np.mean([answer.truncated for answer in answers])),
        }
        if failed := [total for total in scored.total if not math.isfinite(total)]:
            metrics[UNSCORED] = len(failed) / count
        if len(self._scorer.names) > 1:
            columns = zip(self._scorer.names, scored.values.T.tolist(), strict=True)
            metrics |= {f"reward/{name}": _mean(column) for name, column in columns}
        if self._pass_k:
            metrics |= self._drawn(policy, lambda done, _: progress(count + done, every))
        return metrics

    def _drawn(self, policy: Policy, progress: Callable[[int, int], None]) -> dict[str, float]:
        groups = self._sampler.sample(
            policy, self._examples, self._pass_k, seed=(self._seed, EVALUATION), progress=progress
        )
        right = (self._score(groups).values[:, 0] >= 1).reshape(-1, self._pass_k).sum(axis=1)
        return {
            f"pass@{k}": float(np.mean([pass_at(k, self._pass_k, int(c)) for c in right]))
            for k in sorted({1, self._pass_k})
        }

    def _score(self, groups: Sequence[Sequence[Completed]]) -> Scored:
        each = len(groups[0])
        scored = self._scorer.score([one.sampled for group in groups for one in group])
        found = [(self._examples[failure.index // each].name, failure) for failure in scored.failures]
        for code, message, rows in failures(found):
            self._report.alert(code, f"Held-out prompts: {message}", rows=rows)
        return scored


def pass_at(k: int, samples: int, right: int) -> float:
    """An unbiased estimate of how often at least one of k answers is right.

    Chen et al. 2021, arXiv:2107.03374, equation 1: 1 - C(n - c, k) / C(n, k).

    Args:
        k: at most `samples`.
        samples: n answers that were drawn.
        right: c of them.
    """
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def _mean(values: Sequence[float]) -> float:
    """The mean of what is known, NaN where nothing is."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan

"""The trainer's micro-batches in GRPO: each rollout's, pass after pass, then the next rollout's.

    rollout     train.batch_size * train.accumulate * rollout.updates prompts, method.group_size completions
                of each
    trained     method.num_iterations times, in the same order

A rollout is kept in checkpoints that are saved before it is trained to its end, and nowhere else: any other
is sampled again from the run's seed and its number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.base import Objective, Policy, State, World
from mlx_align.batch import Batch
from mlx_align.config import RunConfig
from mlx_align.data import Example
from mlx_align.engine.reporter import Reporter
from mlx_align.engine.rollouts.advantages import advantages, signal
from mlx_align.engine.rollouts.batches import Batches, scored
from mlx_align.engine.rollouts.collecting import Collected, Collector
from mlx_align.engine.rollouts.evaluation import RewardEvaluation
from mlx_align.engine.rollouts.judges import Judges
from mlx_align.engine.rollouts.prompts import Prompts
from mlx_align.engine.rollouts.rollout import Rollout, padded
from mlx_align.engine.rollouts.sampler import Sampler, StoppedError
from mlx_align.engine.rollouts.shapes import RolloutShapes
from mlx_align.engine.rollouts.telling import alerts, event
from mlx_align.engine.rollouts.wearing import wearing
from mlx_align.engine.state import total
from mlx_align.methods.grpo import GrpoHyperparameters
from mlx_align.rewards import Scorer


class RolloutData:
    """`engine.feed.Feed` from completions that the policy samples.

    Args:
        train: the prompts to learn on.
        valid: the prompts to measure with.
        config: the run's.
        objective: GRPO with its numbers.
        sampler: has the policy answer.
        scorer: scores the answers.
        report: is told of each rollout.
        judges: the models that some rewards ask.
    """

    def __init__(
        self,
        train: Sequence[Example],
        valid: Sequence[Example],
        config: RunConfig,
        objective: Objective,
        sampler: Sampler,
        scorer: Scorer,
        report: Reporter,
        judges: Judges,
    ) -> None:
        self.train, self.valid, self.objective = train, valid, objective
        self._start: State = {}
        self._judges = judges
        self._config, self._report = config, report
        if not isinstance(objective.hp, GrpoHyperparameters):
            raise TypeError("rollouts are GRPO's")
        self._hp = objective.hp
        size = config.train.batch_size or 1  # the other key of the two is refused for a method that samples
        self._accumulate, self._updates = config.train.accumulate, config.rollout.updates
        self._prompts = Prompts(len(train), size * self._accumulate * self._updates, config.train.seed)
        self._collector = Collector(train, self._prompts, self._hp, sampler, scorer, report)
        self._evaluation = RewardEvaluation(valid, config, sampler, scorer, report)
        longest = max(len(example.prompt_ids) for example in train)
        shapes = RolloutShapes(size, self._hp.group_size, longest, config.sampling.max_tokens)
        self._cut = Batches(train, shapes, self._hp.mask_truncated)
        self._rollout: Rollout | None = None
        self._batches: list[Batch] = []

    def begin(self, policy: Policy) -> None:
        """Take note of the adapter that the run begins with: the reference of the KL term.

        Args:
            policy: before it has learnt anything, also in a resume.
        """
        self._judges.begin(policy)
        if self._hp.beta:
            self._start = policy.adapter_state()

    # Positions

    @property
    def _steps_each(self) -> int:
        """Updates made of one rollout."""
        return self._updates * self._hp.num_iterations

    @property
    def _batches_each(self) -> int:
        """Micro-batches of one rollout, each counted once."""
        return self._updates * self._accumulate

    @property
    def total_steps(self) -> int:
        """Optimiser updates in the whole run."""
        train = self._config.train
        if train.steps is not None:
            return train.steps
        rollouts = math.ceil((train.epochs or 0.0) * len(self.train) / self._prompts.each)
        return max(1, rollouts) * self._steps_each

    def window(self, step: int) -> range:
        """The positions of an update's micro-batches."""
        return range(step * self._accumulate, (step + 1) * self._accumulate)

    def epoch(self, position: int) -> float:
        """Passes over the prompts after `position` micro-batches."""
        rollouts = position / (self._steps_each * self._accumulate)
        return rollouts * self._prompts.each / len(self.train)

    def batch(self, position: int) -> Batch:
        """A micro-batch of the rollout that is ready."""
        return self._batches[position % self._batches_each]

    def rows(self, step: int) -> tuple[str, ...]:
        """The names of the prompts in the window of an update."""
        return tuple(name for batch in self._window(step) for name in batch.rows)

    # What the trainer asks before and after an update

    def prepare(self, policy: Policy, step: int, stopped: Callable[[], bool]) -> bool:
        """Sample the rollout that the update belongs to, unless it is there."""
        number = step // self._steps_each
        if self._rollout is not None and self._rollout.number == number:
            return True
        self._rollout = None  # its memory is wanted
        try:
            collected = self._collector.collect(policy, number, stopped)
        except StoppedError:
            return False
        rollout = self._scored(policy, self._made(number, collected))
        self._take(rollout)
        self._tell(collected, rollout, step + 1)
        return True

    def window_counts(self, step: int) -> dict[str, float]:
        """The loss's denominators over the window, or its even share of the whole rollout's."""
        method, share = self.objective.method, 1
        batches = self._window(step)
        if self._hp.counts_rollout:
            batches, share = self._batches, self._updates
        counts = total(method.counts(batch, self._hp) for batch in batches)
        # Every completion may be masked; a sum over none of them is 0, whatever it is divided by.
        return {term: max(1.0, count / share) for term, count in counts.items()}

    def facts(self, step: int) -> dict[str, float]:
        """Reward, its share without signal, and length of the window's completions."""
        if self._rollout is None:
            return {}
        per = self._accumulate * (self._config.train.batch_size or 1)
        first = step % self._updates * per
        members, size = self._rollout.members(range(first, first + per)), self._rollout.group_size
        rewards = self._rollout.rewards[members]
        known = rewards[np.isfinite(rewards)]
        return {
            "reward": float(known.mean()) if known.size else math.nan,
            "no_signal": 1.0 - float(signal(rewards.reshape(-1, size)).mean()),
            "length": float(self._rollout.lengths[members].mean()),
            "truncated": float(self._rollout.truncated[members].mean()),
        }

    def teaches(self, step: int) -> bool:
        """Whether an advantage in the loss is not 0."""
        windows = self._window(step)
        return any((batch.response_mask.any(axis=1) & (batch.advantages != 0)).any() for batch in windows)

    def silent(self, step: int) -> bool:
        """Whether all advantages in the loss are 0, and nothing holds the policy to a reference."""
        held = self._hp.beta and any(batch.response_mask.any() for batch in self._window(step))
        return not (held or self.teaches(step))

    def evaluate(
        self, policy: Policy, progress: Callable[[int, int], None], world: World
    ) -> dict[str, float]:
        """Rewards on the held-out prompts."""
        return self._evaluation.measure(policy, progress)

    # Checkpoints

    def state(self, position: int) -> State:
        """The rollout, where it is not trained to its end."""
        if self._rollout is None:
            return {}
        each = self._steps_each * self._accumulate
        first = self._rollout.number * each
        return self._rollout.state() if first <= position < first + each else {}

    def restore(self, state: State) -> None:
        """Take what a checkpoint has of a rollout."""
        found = Rollout.from_state(state)
        if found is not None:
            self._take(found)

    # A rollout

    def _window(self, step: int) -> list[Batch]:
        return [self.batch(position) for position in self.window(step)]

    def _take(self, rollout: Rollout) -> None:
        self._rollout, self._batches = rollout, self._cut.of(rollout)

    def _made(self, number: int, collected: Collected) -> Rollout:
        completed, rewards = collected.completed, collected.totals
        ids, lengths = padded([one.ids for one in completed])
        return Rollout(
            number=number,
            rows=np.array([group.row for group in collected.groups], np.int64),
            ids=ids,
            lengths=lengths,
            truncated=np.array([one.sampled.truncated for one in completed]),
            rewards=rewards.reshape(-1),
            advantages=advantages(rewards, self._hp.scaling).reshape(-1).astype(np.float32),
        )

    def _scored(self, policy: Policy, rollout: Rollout) -> Rollout:
        """The rollout with the log-probabilities that its loss will ask for.

        A rollout that is one update is trained by the policy that sampled it: the loss knows those itself.
        """
        batches, width = self._cut.of(rollout), rollout.ids.shape[1]

        def score() -> NDArray[np.float32]:
            return scored(policy, batches, width, self.objective.temperature)

        if self._steps_each > 1:
            rollout = replace(rollout, old_logps=score())
        if self._hp.beta:
            with wearing(policy, self._start):
                rollout = replace(rollout, ref_logps=score())
        return rollout

    def _tell(self, collected: Collected, rollout: Rollout, step: int) -> None:
        questions = [self.train[row].question for row in rollout.rows]
        names = self._collector.names
        self._report(event(collected, names, questions, rollout, step=step))
        for code, message, rows in alerts(collected, self._hp):
            self._report.alert(code, message, step=step, rows=rows)
        self._report.phase("training")

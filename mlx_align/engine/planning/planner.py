"""Whether a run fits on this machine, decided before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from mlx_align.backends.adapter_files import read_facts as read_adapter
from mlx_align.backends.base import Backend, MemoryHabits, Objective
from mlx_align.config import AdapterConfig, RunConfig, TrainConfig
from mlx_align.data import BatchPlan, Example, Shape, Sizes, eval_batches
from mlx_align.engine.evaluation import spread
from mlx_align.engine.planning.adapted import Adapter
from mlx_align.engine.planning.facts import ModelFacts, read_facts
from mlx_align.engine.planning.footprint import Arithmetic, Footprint
from mlx_align.engine.rollouts.shapes import RolloutShapes
from mlx_align.errors import UsageError
from mlx_align.methods.grpo import GrpoHyperparameters
from mlx_align.paths import typed
from mlx_align.rewards import make_specs
from mlx_align.rewards.judge import BASE, JudgeOptions

Verdict = Literal["fits", "tight", "will not fit", "unknown"]
TIGHT = 0.8
"""A plan above this share of what there is counts as tight: most predictions were within 15% on CPUs;
on Metal and CUDA that is not verified."""


INSTRUCTIONS, CHARACTERS = 256, 4
"""Tokens that a judge reads besides its rubric, what was asked and what was answered (about 200); and the
characters of a token, where there is a text but no tokens of it."""


@dataclass(frozen=True)
class Plan:
    """What a run needs, and what there is.

    Attributes:
        footprint: at the run's worst moment.
        shape: the batch of that moment; None where it is no batch.
        available: bytes for it on this machine; 0: unknown.
    """

    footprint: Footprint
    shape: Shape | None
    available: int

    @property
    def total(self) -> int:
        """Bytes needed."""
        return self.footprint.total

    @property
    def verdict(self) -> Verdict:
        """Whether that fits."""
        if not self.available:
            return "unknown"
        if self.total > self.available:
            return "will not fit"
        return "tight" if self.total > TIGHT * self.available else "fits"


@dataclass(frozen=True)
class Planner:
    """Plans the runs of one model on some rows.

    Args:
        model: the base.
        habits: the backend's.
        available: bytes for a run on this machine; 0: unknown.
        train, valid: the tokenised rows; all held-out ones.
        objective: the method with its numbers.
        ranks: among how many processes a run is divided.
    """

    model: ModelFacts
    habits: MemoryHabits
    available: int
    train: Sequence[Example]
    valid: Sequence[Example]
    objective: Objective
    ranks: int = 1
    _known: dict[tuple[TrainConfig, int], Sequence[Shape]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(
        cls,
        backend: Backend,
        folder: Path,
        train: Sequence[Example],
        valid: Sequence[Example],
        objective: Objective,
        ranks: int = 1,
    ) -> Planner | None:
        """The planner for a model's folder on a backend; None where the backend's habits are not known.

        Raises:
            UsageError: the model's files cannot be read.
        """
        habits = backend.habits()
        if habits is None:
            return None
        limit = backend.memory().limit
        available = max(0, limit - habits.reserve) if limit else 0
        return cls(read_facts(folder), habits, available, train, valid, objective, ranks)

    def plan(self, config: RunConfig) -> Plan:
        """The plan of a run with this configuration.

        Raises:
            UsageError: the starting adapter cannot be read.
        """
        arithmetic = self._arithmetic(config)
        needs: list[tuple[Footprint, Shape | None]] = [(arithmetic.update(), None)]
        if self.samples:
            needs += self._of_rollouts(arithmetic)
        else:
            needs += self._of_rows(arithmetic)
        valid = spread([e for e in self.valid if e.length <= config.data.max_length], config.eval.rows)
        if asked := spread(valid, config.eval.samples):
            prompt = max(len(example.prompt_ids) for example in asked)
            needs.append((arithmetic.sampling(len(asked), 1, prompt, config.eval.max_tokens), None))
        worst, where = max(needs, key=lambda need: need[0].total)
        return Plan(worst, where, self.available)

    def _of_rows(self, arithmetic: Arithmetic) -> Iterator[tuple[Footprint, Shape | None]]:
        """Training on rows with their answers, and evaluating them."""
        config, longest = arithmetic.config, arithmetic.config.data.max_length
        for shape in self._shapes(config.train, longest):
            yield from ((footprint, shape) for footprint in arithmetic.training(shape))
        valid = spread([example for example in self.valid if example.length <= longest], config.eval.rows)
        batches = eval_batches(valid, config.train, scores_prompt=self._scores_prompt)
        yield from ((arithmetic.evaluation(shape), shape) for shape in {shape for _, shape in batches})

    def _of_rollouts(self, arithmetic: Arithmetic) -> Iterator[tuple[Footprint, Shape | None]]:
        """Sampling groups of the longest completions there may be, scoring them and training on them."""
        config, group = arithmetic.config, self.objective.method.branches(self.objective.hp)
        held_out = spread(self.valid, config.eval.rows)
        prompts = (*self.train, *held_out)
        prompt = max(len(example.prompt_ids) for example in prompts)
        asked = (config.train.batch_size or 1) * config.train.accumulate * config.rollout.updates
        size, longest = config.train.batch_size or 1, config.sampling.max_tokens
        wanted = [(asked, group)]
        if held_out:
            wanted += [(len(held_out), samples) for samples in {1, config.eval.pass_k or 1}]
        for count, samples in wanted:
            yield arithmetic.sampling(count, samples, prompt, longest), None
        for judge in _own_judges(config):
            question = max(_whole(example) for example in prompts) + longest + _instructions(judge)
            answers = max(count * samples for count, samples in wanted)
            yield arithmetic.sampling(answers, 1, question, judge.max_tokens), None
        shape = RolloutShapes(size, arithmetic.branches, prompt, longest).largest
        yield from ((footprint, shape) for footprint in arithmetic.training(shape))
        hp = self.objective.hp
        if (
            not isinstance(hp, GrpoHyperparameters)
            or hp.beta
            or hp.num_iterations * config.rollout.updates > 1
        ):
            whole = RolloutShapes(size, group, prompt, longest).largest  # scored before the first update
            yield replace(arithmetic, branches=group).evaluation(whole), whole

    def with_model(self, model: ModelFacts) -> Planner:
        """The same rows with another base."""
        return replace(self, model=model)

    def rows(self, longest: int) -> int:
        """Training rows that are not longer than this."""
        return sum(example.length <= longest for example in self.train)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest training row, with its longest branch."""
        return max((example.length for example in self.train), default=0)

    @property
    def samples(self) -> bool:
        """Whether the policy writes the answers."""
        return self.objective.method.rows == "prompt"

    @property
    def _scores_prompt(self) -> bool:
        return self.objective.method.scores_prompt(self.objective.hp)

    def _shapes(self, config: TrainConfig, longest: int) -> Sequence[Shape]:
        """Of the training batches, without longer rows; advice asks for the same ones many times."""
        if (config, longest) not in self._known:
            rows = [example for example in self.train if example.length <= longest]
            sizes = Sizes.of(rows, scores_prompt=self._scores_prompt)
            shapes = BatchPlan(sizes, config, 0, self.ranks).shapes.all if rows else ()
            self._known[config, longest] = shapes
        return self._known[config, longest]

    def _arithmetic(self, config: RunConfig) -> Arithmetic:
        adapter = Adapter.on(self.model, _adapter(config.adapter))
        branches = self.objective.method.branches(self.objective.hp)
        branches = min(branches, config.train.branches_at_once or branches)
        return Arithmetic(self.model, adapter, self.habits, config, branches, self._scores_prompt)


def _adapter(config: AdapterConfig) -> AdapterConfig:
    """The adapter's shape, which a starting adapter decides."""
    if config.start is None:
        return config
    folder = typed(config.start)
    try:
        facts = read_adapter(folder)
        parameters = facts["lora_parameters"]
        return config.model_copy(
            update={
                "type": facts.get("fine_tune_type", "lora"),
                "rank": int(parameters["rank"]),
                "modules": tuple(parameters.get("keys") or ()) or "all",
                "layers": int(facts["num_layers"]) if int(facts["num_layers"]) > 0 else "all",
                "dropout": float(parameters.get("dropout", 0.0)),
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"the starting adapter cannot be read: {error}", where=str(folder)) from None


def _own_judges(config: RunConfig) -> list[JudgeOptions]:
    """Those that are the base itself."""
    found = [spec.options for spec in make_specs([reward.model_dump() for reward in config.rewards])]
    return [options for options in found if isinstance(options, JudgeOptions) and options.model == BASE]


def _instructions(judge: JudgeOptions) -> int:
    """Tokens that it reads besides what was asked and what was answered."""
    return INSTRUCTIONS + len(judge.rubric) // CHARACTERS


def _whole(example: Example) -> int:
    """Tokens of a prompt, which a judge reads whole even where it was cut."""
    return max(len(example.prompt_ids), len(example.prompt_text) // CHARACTERS)

"""The cheapest change that makes a run fit.

The changes, in the order of what they cost: smaller batches with the same number of rows in an update cost
some speed, and so does reading a sampled group in parts; checkpointed attention, then checkpointed layers,
cost a part of the forward pass a second time; a shorter data.max_length costs rows; a lower rank costs what
the adapter can learn; a base in 4 bits costs precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlx_align.config import RunConfig
from mlx_align.engine.planning.facts import ModelFacts, Stored
from mlx_align.engine.planning.planner import TIGHT, Plan, Planner
from mlx_align.settings import flatten, nest

Settings = dict[str, Any]
Change = Callable[[Planner, RunConfig], Iterator[Settings]]
"""Gives settings, from those that change least to those that change most."""
SHORTEST, SHORTEN_TO, LEAST_RANK = 64, (0.75, 0.5, 0.25), 4


@dataclass(frozen=True)
class Advice:
    """Settings under which a run fits.

    Attributes:
        settings: dotted key -> value; empty if nothing but another base would do.
        quantise: whether the base must be quantised to 4 bits as well.
        plan: of the run with all that.
        lost: training rows that would be left out.
    """

    settings: Settings
    quantise: bool
    plan: Plan
    lost: int

    @property
    def options(self) -> str:
        """The settings as they are typed."""
        return " ".join(f"--set {key}={value}" for key, value in self.settings.items())


def advise(planner: Planner, config: RunConfig) -> Advice | None:
    """The cheapest change that makes the run fit, well if that can be; None if nothing does."""
    fits_now = planner.plan(config).total <= planner.available
    rooms = [share * planner.available for share in ((TIGHT,) if fits_now else (TIGHT, 1.0))]
    bases = [planner] if planner.model.quantised else [planner, planner.with_model(quantised(planner.model))]
    for base in bases:
        for room in rooms:
            settings = _settings(base, config, room)
            if settings is not None:
                return _advice(base, config, settings, quantise=base is not planner)
    return None


def _settings(planner: Planner, config: RunConfig, room: float) -> Settings | None:
    """Nothing if that does, else one change alone, else as few as possible together."""

    def fits(settings: Mapping[str, Any]) -> bool:
        return planner.plan(changed(config, settings)).total <= room

    if fits({}):
        return {}
    for change in CHANGES:
        for settings in change(planner, config):
            if fits(settings):
                return settings
    together: list[Settings] = []
    for change in CHANGES:
        options = list(change(planner, changed(config, _joined(together))))
        fitting = next((x for x in options if fits(_joined([*together, x]))), None)
        if fitting is not None:
            return _joined(_without_needless([*together, fitting], fits))
        together += options[-1:]
    return None


def _without_needless(parts: list[Settings], fits: Callable[[Mapping[str, Any]], bool]) -> list[Settings]:
    for part in parts[-2::-1]:  # the dearest first; the last one was found to be needed
        rest = [other for other in parts if other is not part]
        if fits(_joined(rest)):
            parts = rest
    return parts


def _joined(parts: list[Settings]) -> Settings:
    return {key: value for part in parts for key, value in part.items()}


def _advice(planner: Planner, config: RunConfig, settings: Settings, *, quantise: bool) -> Advice:
    after = changed(config, settings)
    lost = planner.rows(config.data.max_length) - planner.rows(after.data.max_length)
    return Advice(settings, quantise, planner.plan(after), lost)


def changed(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The configuration with other values for some dotted keys."""
    return RunConfig.model_validate(nest({**flatten(config.model_dump()), **settings}))


# The changes


def _smaller_batches(planner: Planner, config: RunConfig) -> Iterator[Settings]:
    train = config.train
    if train.batch_size is not None:
        window = train.batch_size * train.accumulate
        for size in range(train.batch_size - 1, 0, -1):
            if window % size == 0:
                yield {"train.batch_size": size, "train.accumulate": window // size}
    elif train.tokens_per_batch is not None:
        halved, times = train.tokens_per_batch // 2, 2
        while halved >= planner.longest:
            yield {"train.tokens_per_batch": halved, "train.accumulate": train.accumulate * times}
            halved, times = halved // 2, times * 2


def _parts_of_groups(planner: Planner, config: RunConfig) -> Iterator[Settings]:
    if not planner.samples:
        return
    group = planner.objective.method.branches(planner.objective.hp)
    at_once = (config.train.branches_at_once or group) // 2
    while at_once:
        yield {"train.branches_at_once": at_once}
        at_once //= 2


def _checkpointed_attention(planner: Planner, config: RunConfig) -> Iterator[Settings]:
    # Models with capped scores compute attention themselves, where it cannot be checkpointed alone.
    if config.backend.checkpointing == "none" and not planner.model.capped_scores:
        yield {"backend.checkpointing": "attention"}


def _checkpointed_layers(planner: Planner, config: RunConfig) -> Iterator[Settings]:
    if config.backend.checkpointing != "layers":
        yield {"backend.checkpointing": "layers"}


def _shorter_rows(planner: Planner, config: RunConfig) -> Iterator[Settings]:
    if planner.samples:  # the completions are what is long, and a run needs those that it needs
        return
    longest = min(planner.longest, config.data.max_length)
    for share in SHORTEN_TO:
        length = round(longest * share) // SHORTEST * SHORTEST
        if length >= SHORTEST and planner.rows(length):
            yield {"data.max_length": length}


def _lower_rank(planner: Planner, config: RunConfig) -> Iterator[Settings]:
    rank = config.adapter.rank // 2 if config.adapter.start is None else 0
    while rank >= LEAST_RANK:
        yield {"adapter.rank": rank}
        rank //= 2


CHANGES: tuple[Change, ...] = (
    _smaller_batches,
    _parts_of_groups,
    _checkpointed_attention,
    _checkpointed_layers,
    _shorter_rows,
    _lower_rank,
)


def quantised(model: ModelFacts) -> ModelFacts:
    """The same model in 4 bits, with a scale and a bias in 16 bits for every 64 weights."""
    stored: list[Stored] = []
    for array in model.stored:
        if len(array.shape) < 2 or not array.floating:
            stored.append(array)
        else:
            stored += [Stored("U32", (array.size // 8,)), Stored("BF16", (array.size // 32,))]
    return replace(model, stored=tuple(stored), quantised=True)

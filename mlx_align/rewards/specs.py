"""Which rewards a run has: from the command line or the configuration to checked specs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from mlx_align.errors import ConfigError, DataError, UsageError
from mlx_align.rewards.base import NO_ANSWER, Options, Reward
from mlx_align.rewards.python import FUNCTION, absolute
from mlx_align.rewards.registry import get
from mlx_align.wording import plain


@dataclass(frozen=True)
class Spec:
    """One reward of a run.

    Attributes:
        reward: its kind.
        options: that kind's options.
        weight: factor on its value in the sum of all; with 0 it is only shown.
        label: what displays call it; no two of a run have the same.
    """

    reward: Reward
    options: Options
    weight: float
    label: str


class Rewarded(Protocol):
    """What a data row says to rewards; `data.Row` and `data.Example` do."""

    @property
    def name(self) -> str:
        """Where it stands: "file.jsonl:12"."""

    @property
    def answer(self) -> str | None:
        """The right answer."""

    @property
    def extra(self) -> Mapping[str, Any]:
        """The row's other columns."""


def parse_reward(text: str) -> dict[str, Any]:
    """The [[rewards]] table for "numeric", "numeric=2.0", "file.py:function" or "file.py:function=0.5".

    Raises:
        UsageError: there is no such reward, or what follows "=" is not a number.
    """
    name, equals, weight = text.partition("=")
    table: dict[str, Any] = {"name": absolute(name.strip())}
    _reward_of(table)
    if equals:
        table["weight"] = _weight(text, weight)
    return table


def _weight(text: str, weight: str) -> float:
    try:
        return float(weight)
    except ValueError:
        raise UsageError(
            f"in '{text}', '{weight}' is not a number",
            where="--reward",
            hint="A weight follows the name: --reward numeric=2. Other options stand in [[rewards]] tables.",
        ) from None


def make_specs(tables: Sequence[Mapping[str, Any]]) -> tuple[Spec, ...]:
    """The rewards that [[rewards]] tables describe: name, weight, label, and the reward's own options.

    Raises:
        UsageError: there is no such reward; ConfigError: an option is unknown or out of range, or two
            rewards have the same label.
    """
    specs = tuple(_spec(table, f"rewards[{number}]") for number, table in enumerate(tables))
    twice = [label for label, count in Counter(spec.label for spec in specs).items() if count > 1]
    if twice:
        message = f"two rewards are called '{twice[0]}'"
        raise ConfigError(message, where="rewards", hint="Give one of them another 'label'.")
    return specs


def anywhere(table: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a [[rewards]] table to replace for a run that is resumed from another folder.

    Raises:
        UsageError: the table cannot be used; see `make_specs`.
    """
    (spec,) = make_specs([table])
    paths = {"name": absolute(str(table["name"])), **spec.options.anywhere()}
    return {key: path for key, path in paths.items() if key in table}


def _reward_of(table: Mapping[str, Any]) -> Reward:
    name = str(table.get("name", ""))
    return get("python" if FUNCTION.fullmatch(name) else name)


def _spec(table: Mapping[str, Any], where: str) -> Spec:
    reward = _reward_of(table)
    given = dict(table)
    name, weight, label = given.pop("name"), given.pop("weight", 1.0), given.pop("label", None)
    if FUNCTION.fullmatch(name):
        given = {"function": name, **given}
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ConfigError(f"the weight must be a number and is {weight!r}", where=f"{where}.weight")
    try:
        options = reward.options.model_validate(given)
    except ValidationError as error:
        raise _bad_option(error, reward, where) from None
    usual = reward.label(options) if reward.label else reward.name
    return Spec(reward, options, float(weight), str(label or usual))


def _bad_option(error: ValidationError, reward: Reward, where: str) -> ConfigError:
    """The first thing that is wrong with a reward's options."""
    errors = error.errors()
    key = str(next(iter(errors[0]["loc"]), ""))
    known = ", ".join(field.alias or name for name, field in reward.options.model_fields.items())
    hint = f"The reward '{reward.name}' has the options {known}." if known else None
    message = plain([one for one in errors if one["loc"] == errors[0]["loc"]])
    return ConfigError(
        f"reward '{reward.name}': {message}", where=f"{where}.{key}" if key else where, hint=hint
    )


def _remedy(rows: Sequence[Rewarded], lacking: Sequence[str]) -> str:
    """What to do about rows of which some lack something; `lacking` has what, once for each of these."""
    if len(lacking) < len(rows):
        return "Remove these rows, or choose another reward with --reward."
    if all({"chosen", "rejected"} <= row.extra.keys() for row in rows):
        return "These are pairs of answers: train on them with orpo, dpo or simpo."
    if set(lacking) == {NO_ANSWER}:
        return "Give the rows an 'answer', or choose another reward with --reward."
    return "Choose another reward with --reward, or give the rows what this one needs."


def check_rows(specs: Iterable[Spec], rows: Sequence[Rewarded]) -> None:
    """Refuse rows that a reward cannot be computed for, before anything is sampled.

    Raises:
        DataError: the first reward that some rows cannot have; it names the first of them.
    """
    for spec in specs:
        lacking = [
            (row.name, missing)
            for row in rows
            if (missing := spec.reward.lacks(row.answer, row.extra, spec.options)) is not None
        ]
        if lacking:
            name, missing = lacking[0]
            raise DataError(
                f"the reward '{spec.label}' cannot be computed: the row {missing}"
                f" ({len(lacking)} of {len(rows)} rows are like that)",
                where=name,
                hint=_remedy(rows, [missing for _, missing in lacking]),
            )

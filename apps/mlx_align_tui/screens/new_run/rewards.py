"""The rewards of a run that is being put together: weights and options as they were typed."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from mlx_align.errors import ConfigError
from mlx_align.paths import typed
from mlx_align.settings import parse_value

REWARD = "rewards."
"""A reward's weight is a field of this name, "rewards.length"; its options are "rewards.length.target"."""
FUNCTION = "python.function"
"""The option that names a function of a person's own file."""
_AT = re.compile(r"rewards\[(\d+)\](?:\.(\w+))?")
"""Where an error says it is: the number of a reward, and its option."""


@dataclass(frozen=True)
class Option:
    """One option of a reward.

    Attributes:
        name: as it stands in a [[rewards]] table.
        annotation: its type.
        default: its value as one would type it; "" for none.
        required: whether it must be set.
        type: its type in words.
        description: what it is.
    """

    name: str
    annotation: Any
    default: str
    required: bool
    type: str
    description: str

    def read(self, text: str) -> Any:
        """The value that was typed: words for a list may be parted by commas, and text needs no quotes."""
        if self.annotation is str:
            return text
        if get_origin(self.annotation) is tuple and not text.startswith("["):
            return [word.strip() for word in text.split(",") if word.strip()]
        if text.startswith("{"):
            try:
                return json.loads(text)
            except ValueError:
                return parse_value(text)
        return parse_value(text)


def options(name: str) -> list[Option]:
    """The options of a reward, those that must be set first."""
    from mlx_align.rewards.registry import get  # loads numpy
    from mlx_align_cli.schema import type_text

    model = get(name).options
    facts = model.model_json_schema()["properties"]
    found = []
    for attribute, info in model.model_fields.items():
        key = info.alias or attribute
        default = "" if info.is_required() else text_of(info.default)
        kind = type_text(facts[key])
        found.append(Option(key, info.annotation, default, info.is_required(), kind, info.description or ""))
    return sorted(found, key=lambda option: not option.required)


@dataclass
class Rewards:
    """What was chosen.

    Attributes:
        weights: reward -> its weight as text.
        options: "REWARD.OPTION" -> its value as text.
        others: tables that the fields cannot say, which a configuration brought along: the second of a
            kind, and those with a label.
    """

    weights: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    others: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, tables: Sequence[Mapping[str, Any]]) -> Rewards:
        """What leads to these tables; their order may become another."""
        rewards = cls()
        for table in tables:
            name, named = _kind(str(table["name"]))
            known = {option.name for option in options(name)}
            if name in rewards.weights or not {*table, *named} - {"name", "weight"} <= known:
                rewards.others = (*rewards.others, dict(table))
                continue
            weight = float(table.get("weight", 1.0))
            rewards.weights[name] = f"{int(weight)}" if weight.is_integer() else repr(weight)
            for key, value in {**table, **named}.items():
                if key not in ("name", "weight") and value is not None:
                    rewards.options[f"{name}.{key}"] = text_of(value)
        return rewards

    def __bool__(self) -> bool:
        return bool(self.weights or self.others)

    def put(self, name: str, text: str) -> None:
        """Take what was typed for a reward's weight or an option; nothing takes it back."""
        place = self.options if "." in name else self.weights
        if text:
            place[name] = text
            self.weights.setdefault(name.partition(".")[0], "1")
        else:
            place.pop(name, None)

    def text(self, name: str) -> str:
        """What was typed for a reward's weight or an option."""
        return (self.options if "." in name else self.weights).get(name, "")

    def tables(self) -> list[dict[str, Any]]:
        """The [[rewards]] tables.

        Raises:
            ConfigError: a weight is not a number, or there is no such function; `where` names the field.
        """
        return [*(self._table(name) for name in self.weights), *self.others]

    def _table(self, name: str) -> dict[str, Any]:
        table: dict[str, Any] = {"name": name, "weight": self._weight(name)}
        for option in options(name):
            text = self.options.get(f"{name}.{option.name}")
            if text is not None:
                table[option.name] = option.read(text)
        return _own(table) if name == "python" else table

    def _weight(self, name: str) -> float:
        text = self.weights[name]
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            message = f"the weight must be a number and is '{text}'"
            raise ConfigError(message, where=REWARD + name, hint="1 is usual.")
        return weight

    def words(self) -> list[str] | None:
        """The values of `--reward` that say the same, None where that has no words for an option."""
        tables = self.tables()
        if any(len(table) > 2 for table in tables):
            return None
        return [f"{one['name']}={one['weight']!r}" if one["weight"] != 1 else one["name"] for one in tables]

    def key_of(self, where: str) -> str:
        """The field at which an error is, from what it says of where it is; "" for none."""
        found, names = _AT.match(where), list(self.weights)
        if found is None or int(found[1]) >= len(names):
            return ""
        return ".".join([REWARD + names[int(found[1])], *([found[2]] if found[2] else [])])


def _kind(name: str) -> tuple[str, dict[str, str]]:
    """The reward that a table's name means, and the option that is in the name."""
    return ("python", {"function": name}) if ".py:" in name else (name, {})


def _own(table: dict[str, Any]) -> dict[str, Any]:
    """A table of a function of one's own, which is named by its file's whole path wherever it is used.

    Raises:
        ConfigError: there is no such file, or no such function in it.
    """
    from mlx_align.rewards.python import FUNCTION as SHAPE
    from mlx_align.rewards.python import absolute

    named = table.pop("function", "")
    shape = SHAPE.fullmatch(named)
    if shape is None:
        message = "must be FILE.py:FUNCTION"
        raise ConfigError(message, where=REWARD + FUNCTION)
    file = typed(shape["file"])
    there = functions(file)
    if shape["function"] not in there:
        known = f"it has {', '.join(there)}" if there else "it has none"
        message = f"there is no function '{shape['function']}' in it: {known}"
        raise ConfigError(message, where=REWARD + FUNCTION)
    return {**table, "name": absolute(named)}


def functions(file: Path) -> list[str]:
    """The functions of a Python file, by reading it only.

    Raises:
        ConfigError: it cannot be read, or is not Python.
    """
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except OSError as error:
        message = f"'{file}' cannot be read: {error.strerror}"
        raise ConfigError(message, where=REWARD + FUNCTION) from None
    except (SyntaxError, ValueError) as error:  # null bytes or other text than UTF-8 are the latter
        raise ConfigError(f"'{file}' is not Python: {error}", where=REWARD + FUNCTION) from None
    return [one.name for one in body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]


def text_of(value: Any) -> str:
    """A value as one would type it; nothing for one that is unset."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

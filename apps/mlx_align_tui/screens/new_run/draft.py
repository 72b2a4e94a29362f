"""A run that is being put together: what was chosen, as a configuration, a command and a file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from mlx_align import embedded, methods
from mlx_align.combinations import concerns
from mlx_align.config import EXCLUSIVE, RunConfig
from mlx_align.errors import ConfigError
from mlx_align.presets import PRESET_METHODS, PRESETS
from mlx_align.settings import Resolved, flatten, gather, nest, parse_value, resolve
from mlx_align.toml import without_none

CHOSEN = ("model.path", "data.path", "method.name", "runs.dir", "rewards")
"""Keys that have a place of their own."""
REWARD = "rewards."
"""A reward's weight is a field of this name: "rewards.numeric"."""


@dataclass
class Draft:
    """What was chosen and typed so far.

    Attributes:
        root: the folder that holds the runs.
        model, data, method: as on the command line.
        preset: a preset's name, None for none.
        typed: dotted key -> text, only what differs from what holds without it.
        weights: reward -> its weight as text.
        tables: rewards with options of their own, which a configuration brought along.
    """

    root: Path
    model: str = embedded.TINY_CHAT
    data: str = embedded.SAMPLE
    method: str = "orpo"
    preset: str | None = None
    typed: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    tables: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, root: Path, config: RunConfig) -> Draft:
        """A draft that leads to this configuration."""
        rewards = [reward.model_dump() for reward in config.rewards]
        draft = cls(
            root,
            config.model.path,
            config.data.path,
            config.method.name,
            weights={one["name"]: f"{one['weight']:g}" for one in rewards if len(one) == 2},
            tables=tuple(one for one in rewards if len(one) > 2),
        )
        usual = flatten(draft.resolved().config.model_dump(mode="json"))
        for key, value in flatten(config.model_dump(mode="json")).items():
            if key not in CHOSEN and value != usual.get(key) and not _implied(key, config):
                draft.typed[key] = text_of(value) or "none"
        return draft

    @property
    def presets(self) -> list[str]:
        """The presets that suit the method."""
        return [name for name in PRESETS if PRESET_METHODS.get(name, self.method) == self.method]

    @property
    def samples(self) -> bool:
        """Whether the method samples its answers, and so needs rewards."""
        return methods.get(self.method).rows == "prompt"

    def put(self, key: str, text: str) -> None:
        """Take what was typed for a key; nothing means what holds without it."""
        place = self.weights if key.startswith(REWARD) else self.typed
        name = key.removeprefix(REWARD) if key.startswith(REWARD) else key
        if text.strip():
            place[name] = text.strip()
        else:
            place.pop(name, None)

    def text(self, key: str) -> str:
        """What was typed for a key."""
        if key.startswith(REWARD):
            return self.weights.get(key.removeprefix(REWARD), "")
        return self.typed.get(key, "")

    def values(self) -> dict[str, Any]:
        """Dotted key -> value, of what was typed and has a meaning for the method.

        Raises:
            ConfigError: a reward's weight is not a number.
        """
        known = {f"method.{name}" for name in methods.get(self.method).hyperparameters.model_fields}
        values = {key: parse_value(text) for key, text in self.typed.items() if self._means(key, known)}
        if self.samples and (self.weights or self.tables):
            values["rewards"] = [*self._weighted(), *self.tables]
        return values

    def _means(self, key: str, known: set[str]) -> bool:
        return key in known if key.startswith("method.") else concerns(key, self.method)

    def _weighted(self) -> list[dict[str, Any]]:
        tables = []
        for name, text in self.weights.items():
            try:
                tables.append({"name": name, "weight": float(text)})
            except ValueError:
                message = f"the weight must be a number and is '{text}'"
                raise ConfigError(message, where=f"{REWARD}{name}", hint="1 is usual.") from None
        return tables

    def resolved(self) -> Resolved:
        """The checked configuration.

        Raises:
            ConfigError: a value is wrong; `where` names its key.
        """
        return resolve(gather(self.method, flags=self._flags(), preset=self._preset()))

    def _preset(self) -> str | None:
        return self.preset if self.preset in self.presets else None

    def _flags(self) -> dict[str, Any]:
        return {
            "model.path": self.model,
            "data.path": self.data,
            "runs.dir": str(self.root),
            **self.values(),
        }

    def options(self) -> list[str]:
        """The options that say on a command line what was typed."""
        values = self.values()
        rewards = values.pop("rewards", None)
        words = ["--preset", self.preset] if self.preset and self._preset() else []
        for key in values:
            words += ["--set", f"{key}={self.typed[key]}"]
        if self.tables:
            words += ["--set", f"rewards=[{', '.join(map(_inline, rewards))}]"]
        elif rewards:
            for name, weight in self.weights.items():
                words += ["--reward", name if float(weight) == 1 else f"{name}={weight}"]
        return words

    def command(self) -> str:
        """The command that starts this very run, quoted for a shell."""
        root = [] if self.root == Path(RunConfig().runs.dir) else ["--runs-dir", str(self.root)]
        return shlex.join(["mlx-align", self.method, self.model, self.data, *self.options(), *root])

    def plan_arguments(self) -> list[str]:
        """The arguments of `mlx-align` that plan this run."""
        return ["plan", self.model, self.data, "--method", self.method, *self.options()]

    def toml(self) -> str:
        """A configuration file with what was chosen, and nothing that holds without it."""
        chosen = {"method.name": self.method, "model.path": self.model, "data.path": self.data}
        preset = PRESETS[self.preset] if self.preset and self._preset() else {}
        return tomli_w.dumps(without_none(nest({**chosen, **preset, **self.values()})))


def _implied(key: str, config: RunConfig) -> bool:
    """Whether a key is unset because its partner is set."""
    for pair in EXCLUSIVE:
        if key in pair:
            section, _, name = key.partition(".")
            return getattr(getattr(config, section), name) is None
    return False


def text_of(value: Any) -> str:
    """A value as one would type it; nothing for one that is unset."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _inline(table: Mapping[str, Any]) -> str:
    """A table in one line of TOML."""
    pairs = (f"{key} = {_inline_value(value)}" for key, value in table.items() if value is not None)
    return "{ " + ", ".join(pairs) + " }"


def _inline_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _inline(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_inline_value, value))}]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()

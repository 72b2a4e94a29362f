"""A run that is being put together: what was chosen, as a configuration, a command and a file."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w

from mlx_align import embedded, methods
from mlx_align.combinations import concerns
from mlx_align.config import EXCLUSIVE, RunConfig
from mlx_align.errors import ConfigError
from mlx_align.presets import PRESETS, presets_for
from mlx_align.settings import Resolved, flatten, gather, nest, parse_value, resolve
from mlx_align.toml import without_none
from mlx_align_cli.schema import all_keys, method_keys
from mlx_align_tui.screens.new_run.rewards import REWARD, Rewards, options, text_of

CHOSEN = ("model.path", "data.path", "method.name", "runs.dir", "rewards")
"""Keys that have a place of their own."""
QUOTED = '"none"'
"""How a value that is called none is typed; without quotes it means that a key is unset."""


@dataclass
class Draft:
    """What was chosen and typed so far.

    Attributes:
        root: the folder that holds the runs.
        model, data, method: as on the command line.
        preset: a preset's name, None for none.
        typed: dotted key -> text, only what differs from what holds without it.
        rewards: what answers are scored by, for a method that samples them.
    """

    root: Path
    model: str = embedded.TINY_CHAT
    data: str = embedded.SAMPLE
    method: str = "orpo"
    preset: str | None = None
    typed: dict[str, str] = field(default_factory=dict)
    rewards: Rewards = field(default_factory=Rewards)

    @classmethod
    def of(cls, root: Path, config: RunConfig) -> Draft:
        """A draft that leads to this configuration."""
        tables = [reward.model_dump() for reward in config.rewards]
        draft = cls(root, config.model.path, config.data.path, config.method.name)
        draft.rewards = Rewards(others=tuple(tables))  # a function's file may be gone
        try:
            usual = flatten(draft.resolved().config.model_dump(mode="json"))
        except ConfigError:  # a broken file of the person's own: the screen says so, and here all is kept
            usual = {}
        draft.rewards = Rewards.of(tables)
        for key, value in flatten(config.model_dump(mode="json")).items():
            if key not in CHOSEN and value != usual.get(key) and not _implied(key, config):
                text = text_of(value) or "none"
                draft.typed[key] = text if parse_value(text) == value else text_of([value])[1:-1]
        return draft

    @property
    def presets(self) -> list[str]:
        """The presets that suit the method."""
        return presets_for(self.method)

    @property
    def samples(self) -> bool:
        """Whether the method samples its answers, and so needs rewards."""
        return methods.get(self.method).rows == "prompt"

    def put(self, key: str, text: str) -> None:
        """Take what was typed for a key; nothing means what holds without it."""
        text = text.strip()
        if key.startswith(REWARD):
            self.rewards.put(key.removeprefix(REWARD), text)
        elif text:
            self.typed[key] = QUOTED if text == "none" and key in _none_is_a_value(self.method) else text
        else:
            self.typed.pop(key, None)

    def text(self, key: str) -> str:
        """What was typed for a key."""
        if key.startswith(REWARD):
            return self.rewards.text(key.removeprefix(REWARD))
        text = self.typed.get(key, "")
        return "none" if text == QUOTED else text

    def values(self) -> dict[str, Any]:
        """Dotted key -> value, of what was typed and has a meaning for the method.

        Raises:
            ConfigError: a reward's weight is not a number, or its function is not there.
        """
        known = {f"method.{name}" for name in methods.get(self.method).hyperparameters.model_fields}
        values = {key: parse_value(text) for key, text in self.typed.items() if self._means(key, known)}
        if self.samples and self.rewards:
            values["rewards"] = self.rewards.tables()
        return values

    def _means(self, key: str, known: set[str]) -> bool:
        return key in known if key.startswith("method.") else concerns(key, self.method)

    def resolved(self) -> Resolved:
        """The checked configuration.

        Raises:
            ConfigError: a value is wrong; `where` names its key.
        """
        return resolve(gather(self.method, flags=self._flags(), preset=self._preset()))

    def holds(self, resolved: Resolved) -> dict[str, tuple[str, str]]:
        """Field -> what holds, as text, and where that comes from."""
        found = {key: (text_of(value), origin) for key, value, origin in resolved.items()}
        rewards = Rewards.of([reward.model_dump() for reward in resolved.config.rewards])
        origin = found.get("rewards", ("", ""))[1]
        for name, weight in rewards.weights.items():
            found[REWARD + name] = weight, origin
            for option in options(name):
                key = f"{name}.{option.name}"
                yours = rewards.options.get(key)
                found[REWARD + key] = (option.default, "default") if yours is None else (yours, origin)
        return found

    def key_of(self, error: ConfigError) -> str:
        """The field at which an error is; "" for none."""
        where = error.where or ""
        found = re.match(r"[\w.]+", where)
        return self.rewards.key_of(where) or (found[0] if found else "")

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
        if rewards and (short := self.rewards.words()) is None:
            words += ["--set", f"rewards=[{', '.join(map(_inline, rewards))}]"]
        elif rewards:
            words += [word for text in short or () for word in ("--reward", text)]
        return words

    def _elsewhere(self) -> bool:
        """Whether the folder for runs is another than the one that holds without a word about it."""
        flags = {key: value for key, value in self._flags().items() if key != "runs.dir"}
        usual = resolve(gather(self.method, flags=flags, preset=self._preset())).config.runs.dir
        return self.root != Path(usual)

    def command(self) -> str:
        """The command that starts this very run, quoted for a shell.

        Raises:
            ConfigError: a value is wrong.
        """
        root = ["--runs-dir", str(self.root)] if self._elsewhere() else []
        return shlex.join(["mlx-align", self.method, self.model, self.data, *self.options(), *root])

    def plan_arguments(self) -> list[str]:
        """The arguments of `mlx-align` that plan this run."""
        return ["plan", self.model, self.data, "--method", self.method, *self.options()]

    def toml(self) -> str:
        """A configuration file with what was chosen, and nothing that holds without it.

        Raises:
            ConfigError: a value is wrong.
        """
        chosen = {"method.name": self.method, "model.path": self.model, "data.path": self.data}
        if self._elsewhere():
            chosen["runs.dir"] = str(self.root)
        values = self.values()
        weaker = dict(PRESETS[self.preset]) if self.preset and self._preset() else {}
        for first, second in EXCLUSIVE:  # what is typed takes the preset's other one away
            if values.get(first) is not None or values.get(second) is not None:
                weaker.pop(first, None)
                weaker.pop(second, None)
        return tomli_w.dumps(without_none(nest({**chosen, **weaker, **values})))


@cache
def _none_is_a_value(method: str) -> frozenset[str]:
    """The keys that have a value called none, which is not the lack of one."""
    keys = [*all_keys(), *method_keys(method)]
    return frozenset(key.name for key in keys if "none" in key.type.split(" | "))


def _implied(key: str, config: RunConfig) -> bool:
    """Whether a key is unset because its partner is set."""
    for pair in EXCLUSIVE:
        if key in pair:
            section, _, name = key.partition(".")
            return getattr(getattr(config, section), name) is None
    return False


def _inline(table: Mapping[str, Any]) -> str:
    """A table in one line of TOML."""
    pairs = (
        f"{json.dumps(key)} = {_inline_value(value)}" for key, value in table.items() if value is not None
    )
    return "{ " + ", ".join(pairs) + " }"


def _inline_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _inline(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_inline_value, value))}]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()

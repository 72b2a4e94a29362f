"""Configurations as TOML files."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from mlx_align.config import EXCLUSIVE, RunConfig
from mlx_align.errors import ConfigError


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: the file cannot be read or is not TOML; the message has the line and column.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("there is no such configuration file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file cannot be read: {error}", where=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(path)) from None


def without_none(tree: dict[str, Any]) -> dict[str, Any]:
    """The same nested mapping without its None values, which TOML cannot say."""

    def kept(value: Any) -> Any:
        if isinstance(value, list):
            return [kept(item) for item in value]
        return without_none(value) if isinstance(value, dict) else value

    return {key: kept(value) for key, value in tree.items() if value is not None}


def to_toml(config: RunConfig) -> str:
    """The configuration as TOML; reading it back gives an equal RunConfig."""
    return tomli_w.dumps(without_none(config.model_dump(mode="json")))


def from_toml(path: Path) -> RunConfig:
    """A resolved configuration written by `to_toml`.

    Raises:
        ConfigError: the file is missing, damaged, or has a value this version refuses.
    """
    tree = read_toml(path)
    train = tree.get("train", {})
    for first, second in EXCLUSIVE:  # a key that is left out would mean its default
        if isinstance(train, dict) and second.removeprefix("train.") in train:
            train.setdefault(first.removeprefix("train."), None)
    try:
        return RunConfig.model_validate(tree)
    except ValueError as error:
        raise ConfigError(f"not a valid run configuration: {error}", where=str(path)) from None

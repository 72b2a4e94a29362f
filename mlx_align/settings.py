"""Where each configuration value comes from: layers, strongest first

    flag > environment > file > preset > user config > catalog > method > default

`resolve` merges them key by key, checks the result as a whole and remembers for every key which layer
gave it its value, so that `--dry-run` can say so and an error can name the place to mend.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import BaseModel, ValidationError

from mlx_align import embedded, methods
from mlx_align.combinations import check_combinations
from mlx_align.config import EXCLUSIVE, RunConfig
from mlx_align.errors import ConfigError
from mlx_align.paths import typed_new
from mlx_align.presets import PRESET_METHODS, PRESETS, presets_for
from mlx_align.toml import read_toml
from mlx_align.wording import plain

ENV_PREFIX = "MLX_ALIGN_"
SOFT = ("default", "method", "catalog", "user config", "preset")
"""Layers that speak of runs in general: what they say gives way without a word where it cannot hold."""


@dataclass(frozen=True)
class Layer:
    """Values from one place: dotted key -> value, and the name a person knows that place by."""

    origin: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """A checked configuration, and for every dotted key the layer its value came from."""

    config: RunConfig
    origins: dict[str, str]

    def items(self) -> Iterator[tuple[str, Any, str]]:
        """(dotted key, value, origin) of every key, in the order of the schema."""
        for key, value in flatten(self.config.model_dump(mode="json")).items():
            yield key, value, self.origins.get(key, "default")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested tables.

    Raises:
        ConfigError: a key is used both as a value and as a table.
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        table = tree
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ConfigError(f"'{parent}' is a value and cannot have keys below it", where=key)
        table[last] = value
    return tree


def parse_value(text: str) -> Any:
    """A value as written on the command line or in the environment: TOML, else the bare string."""
    if text.lower() in ("none", "null", ""):
        return None
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text  # a line break would bring further keys


def from_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """The values of `--set key=value` options.

    Raises:
        ConfigError: one has no "=", or a key is set twice.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(
                f"'{assignment}' is not key=value",
                where="--set",
                hint="Write, for example, --set optim.lr=1e-4.",
            )
        if key in values:
            raise ConfigError(f"'{key}' is set twice", where="--set", hint="Set it once.")
        values[key] = parse_value(text.strip())
    return values


def from_environment(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Values from variables such as MLX_ALIGN_OPTIM__LR (two underscores stand for the dot)."""
    environ = os.environ if environ is None else environ
    return {
        name.removeprefix(ENV_PREFIX).lower().replace("__", "."): parse_value(text)
        for name, text in sorted(environ.items())
        if name.startswith(ENV_PREFIX)
    }


def user_config_path() -> Path:
    """The file with a person's own defaults; it need not exist."""
    return platformdirs.user_config_path("mlx-align") / "config.toml"


def cache_path(config: RunConfig) -> Path:
    """The folder for what later runs can use again; it need not exist, and may be removed at any time.

    Raises:
        ConfigError: it would be in nobody's home; see `typed_new`.
    """
    chosen = config.runs.cache
    return platformdirs.user_cache_path("mlx-align") if chosen is None else typed_new(chosen, "runs.cache")


def _preset(name: str | None) -> list[Layer]:
    if name is None:
        return []
    if name not in PRESETS:
        raise ConfigError(
            f"unknown preset '{name}'", where="--preset", hint=f"Choose one of: {', '.join(PRESETS)}."
        )
    return [Layer(f"preset {name}", PRESETS[name])]


def _user_layer() -> list[Layer]:
    path = user_config_path()
    return [Layer(f"user config {path}", flatten(read_toml(path)))] if path.is_file() else []


def gather(
    method: str | None,
    *,
    flags: Mapping[str, Any],
    file: Path | None = None,
    preset: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> list[Layer]:
    """All layers, weakest first.

    Args:
        method: the method the command names, or None where file or environment may name it.
        flags: dotted key -> value, only the keys given on the command line.
        file: the file given with -c.
        preset: the preset's name.
        environ: environment variables; None for the process's own.
    """
    strong = [
        *_user_layer(),
        *_preset(preset),
        *([Layer(f"file {file}", flatten(read_toml(file)))] if file else []),
        Layer("environment", from_environment(environ)),
        Layer("flag", {**({"method.name": method} if method else {}), **flags}),
    ]
    _refuse_other_method(method, strong)
    chosen = _strongest(strong, "method.name") or RunConfig().method.name
    _refuse_unknown_method(chosen, strong)
    _refuse_other_preset(preset, str(chosen))
    model = _strongest(strong, "model.path") or RunConfig().model.path
    known = embedded.catalog().get(str(model), {}).get(str(chosen), {})
    return [
        *method_layers(str(chosen)),
        *([Layer(f"catalog {model}", flatten(known))] if known else []),
        *strong,
    ]


def method_layers(name: str) -> list[Layer]:
    """What a method brings with it: its hyperparameters' defaults, and its own defaults for other keys."""
    method = methods.get(name)
    hyper = {f"method.{k}": v for k, v in method.hyperparameters().model_dump().items()}
    return [Layer("default", {"method.name": name, **hyper}), Layer(f"method {name}", method.defaults)]


def _refuse_other_method(method: str | None, layers: Sequence[Layer]) -> None:
    for layer in layers:
        named = layer.values.get("method.name")
        if layer.origin.startswith("user config"):  # a person's usual method; a command may name another
            continue
        if method and named and named != method:
            raise ConfigError(
                f"the command says '{method}' but this says '{named}'",
                where=f"{layer.origin}, key 'method.name'",
                hint=f"Run `mlx-align {named}`, or take the key out.",
            )


def _refuse_unknown_method(name: Any, layers: Sequence[Layer]) -> None:
    if str(name) not in methods.METHODS:
        origin = next(layer.origin for layer in reversed(layers) if "method.name" in layer.values)
        raise ConfigError(
            f"unknown method '{name}'",
            where=f"method.name ({origin})",
            hint=f"Choose one of: {', '.join(methods.METHODS)}.",
        )


def _refuse_other_preset(preset: str | None, method: str) -> None:
    meant = PRESET_METHODS.get(preset or "", method)
    if meant != method:
        others = ", ".join(presets_for(method))
        raise ConfigError(
            f"the preset '{preset}' is for {meant}, and the method is {method}",
            where="--preset",
            hint=f"Run `mlx-align {meant} --preset {preset}`, or choose one of: {others}.",
        )


def _strongest(layers: Sequence[Layer], key: str) -> Any:
    return next((layer.values[key] for layer in reversed(layers) if key in layer.values), None)


def resolve(layers: Sequence[Layer]) -> Resolved:
    """Merge the layers, weakest first, and check the whole.

    Raises:
        ConfigError: an unknown key, a value out of range, or values that conflict; `where` names the
            key and the layer it came from.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        # Setting one of two exclusive keys in a layer unsets the other in the weaker layers.
        for key, other in (*EXCLUSIVE, *(pair[::-1] for pair in EXCLUSIVE)):
            if layer.values.get(key) is not None:
                if layer.values.get(other) is not None:
                    raise ConfigError(
                        f"'{key}' and '{other}' are both set", where=layer.origin, hint="Set one."
                    )
                values[other], origins[other] = None, layer.origin
        values.update(layer.values)
        origins.update(dict.fromkeys(layer.values, layer.origin))
    config = _validate(RunConfig, nest(values), "", origins)
    method = methods.get(config.method.name)
    _validate(method.hyperparameters, config.method.hyperparameters, "method.", origins)
    check_combinations(config, origins, {key for key in values if _asked_for(key, origins)})
    return Resolved(config, origins)


def _asked_for(key: str, origins: Mapping[str, str]) -> bool:
    """Whether a person set the key for this very run."""
    return not origins.get(key, "default").startswith(SOFT)


def _validate(
    schema: type[BaseModel], tree: Mapping[str, Any], prefix: str, origins: Mapping[str, str]
) -> Any:
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        errors = error.errors()
        key = _key(errors[0])
        same = [one for one in errors if _key(one) == key]
        raise _explain((prefix + key).rstrip("."), same, schema, origins) from None


def _key(error: Mapping[str, Any]) -> str:
    return ".".join(part for part in error["loc"] if _is_key(part))


def _is_key(part: int | str) -> bool:
    """Whether it is a key's name and not that of one of the types that its value may have."""
    types = ("int", "str", "constrained-int", "constrained-float")
    return isinstance(part, str) and "[" not in part and part not in types


def _explain(
    key: str, errors: Sequence[Mapping[str, Any]], schema: type[BaseModel], origins: Mapping[str, str]
) -> ConfigError:
    origin = origins.get(key) or next((o for k, o in origins.items() if k.startswith(f"{key}.")), "default")
    where = f"{key} ({origin})" if key else origin
    if errors[0]["type"] == "extra_forbidden":
        return ConfigError("unknown key", where=where, hint=_closest(key, schema))
    hint = "`mlx-align config schema` lists every key and its values."
    return ConfigError(plain(errors), where=where, hint=hint)


def _closest(key: str, schema: type[BaseModel]) -> str:
    known = list(flatten(RunConfig().model_dump()))
    if schema is not RunConfig:
        known = [f"method.{name}" for name in schema.model_fields]
    near = difflib.get_close_matches(key, known, n=1)
    if not near:
        near = [k for k in known if k.split(".")[-1] == key.split(".")[-1]][:1]
    listing = "`mlx-align config schema` lists every key."
    return f"Did you mean '{near[0]}'? {listing}" if near else listing

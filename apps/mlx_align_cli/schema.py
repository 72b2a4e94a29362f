"""The configuration's schema for people (`config schema`, `config init`) and for programs (JSON Schema)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tomli_w
from pydantic import TypeAdapter

from mlx_align import methods
from mlx_align.combinations import concerns
from mlx_align.config import RunConfig
from mlx_align.presets import PRESETS
from mlx_align.settings import method_layers

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


EXAMPLES: dict[str, Any] = {
    "model.revision": "main",
    "adapter.start": "runs/NAME/adapter",
    "train.steps": 100,
    "train.tokens_per_batch": 8192,
    "train.branches_at_once": 4,
    "rewards": [{"name": "numeric", "weight": 1.0}],
    "eval.patience": 3,
    "runs.cache": "~/.cache/mlx-align",
}
"""What a file shows for the keys that are unset by default: TOML cannot say that a key is unset."""


@dataclass(frozen=True)
class Key:
    """One configuration key."""

    name: str
    type: str
    default: Any
    description: str


def all_keys() -> Iterator[Key]:
    """Every key but the methods' own numbers, section by section."""
    for section, field in RunConfig.model_fields.items():
        if section == "rewards":  # a list of tables, each with the options of its own kind
            yield Key(section, "list of tables", None, field.description or "")
            continue
        for key, facts in TypeAdapter(field.annotation or object).json_schema()["properties"].items():
            kind = " | ".join(methods.METHODS) if (section, key) == ("method", "name") else type_text(facts)
            yield Key(f"{section}.{key}", kind, facts.get("default"), facts.get("description", ""))


def method_keys(method: str) -> Iterator[Key]:
    """A method's own numbers."""
    schema = methods.get(method).hyperparameters.model_json_schema()
    for key, facts in schema.get("properties", {}).items():
        yield Key(f"method.{key}", type_text(facts), facts.get("default"), facts.get("description", ""))


def type_text(facts: Mapping[str, Any]) -> str:
    """A JSON Schema type in words: its choices or its bounds."""
    if "anyOf" in facts:
        return " | ".join(type_text(option) for option in facts["anyOf"])
    if "enum" in facts:
        return " | ".join(str(choice) for choice in facts["enum"])
    if "const" in facts:
        return str(facts["const"])
    bounds = ", ".join(f"{sign} {facts[name]:g}" for name, sign in _BOUNDS.items() if name in facts)
    names = {"null": "unset", "array": "list", "string": "text", "boolean": "true | false"}
    name = names.get(facts.get("type", ""), facts.get("type", "any"))
    return f"{name} {bounds}".strip()


def json_schema() -> dict[str, Any]:
    """JSON Schema of a configuration file, with each method's own numbers."""
    schema = RunConfig.model_json_schema()
    variants = []
    for name, method in methods.METHODS.items():
        own = method.hyperparameters.model_json_schema().get("properties", {})
        properties = {"name": {"const": name, "description": method.title}, **own}
        variants.append(
            {"title": name, "type": "object", "properties": properties, "additionalProperties": False}
        )
    schema["$defs"]["MethodConfig"] = {"anyOf": variants, "description": "The method and its own numbers."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def commented_toml(method: str, preset: str | None) -> str:
    """A configuration file with every key: described, at its default and commented out.

    Only the method's name and the preset's values are active, so that the defaults of a later version,
    of a preset given on the command line or of the catalog are not overridden by a file that never meant to.
    """
    layered: dict[str, Any] = {}
    for layer in method_layers(method):
        layered.update(layer.values)
    active: dict[str, Any] = {"method.name": method, **(PRESETS[preset] if preset else {})}
    lines = [
        f"# mlx-align {method} -c THIS_FILE",
        "# Lines that begin with '# ' and a key show its default, or an example where there is none:",
        "# take the '# ' away to change it.",
        "# Known models such as tiny-chat bring some defaults of their own (see: mlx-align config show).",
    ]
    table = ""
    for key in _ordered(method):
        section, _, name = key.name.rpartition(".")
        if section != table:
            table = section
            lines += ["", f"[{section}]"]
        default = layered.get(key.name, key.default)
        unset = "; unset by default" if default is None else ""
        lines += ["", f"# {key.description or 'the ' + name} ({key.type}{unset})"]
        shown = _line(name, EXAMPLES[key.name] if default is None else default)
        lines.append(_line(name, active[key.name]) if key.name in active else f"# {shown}")
    return "\n".join(lines) + "\n"


def _ordered(method: str) -> Iterator[Key]:
    """The keys that concern a method; those outside any table first, as TOML wants them."""
    keys = [key for key in all_keys() if concerns(key.name, method)]
    for key in sorted(keys, key=lambda key: "." in key.name):
        yield key
        if key.name == "method.name":
            yield from method_keys(method)


def _line(name: str, value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):  # in one line, for one "# "
        tables = ("{ " + ", ".join(map(_line, table, table.values())) + " }" for table in value)
        return f"{name} = [{', '.join(tables)}]"
    return tomli_w.dumps({name: value}).strip()

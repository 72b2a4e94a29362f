"""JSON: 1 where the completion, after any thought, is valid JSON that obeys a schema, else 0."""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from typing import Any

from pydantic import Field, model_validator

from mlx_align import installing
from mlx_align.errors import UsageError
from mlx_align.rewards.answers import answer_text
from mlx_align.rewards.base import Options, Reward, Running, Sampled, Tools, pure
from mlx_align.rewards.limits import unless_slow

_FENCE = re.compile(r"\A```(?:json)?[ \t]*\n(.*)\n```\Z", re.DOTALL)


class JsonOptions(Options):
    """What the JSON must be."""

    json_schema: dict[str, Any] | None = Field(
        default=None,
        alias="schema",
        description="a JSON Schema; unset: any JSON. Needs the extra 'json' (the library jsonschema)",
    )
    valid: float = Field(
        default=0.0, ge=0, le=1, description="value of valid JSON that breaks the schema; with a schema only"
    )
    fence: bool = Field(default=True, description="whether the JSON may stand in a fenced code block")

    @model_validator(mode="after")
    def _no_ignored_values(self) -> JsonOptions:
        if self.json_schema is None and self.valid:
            raise ValueError("'valid' has no meaning without a schema")
        return self


def json_(sampled: Sampled, options: JsonOptions) -> float:
    """1 for JSON that obeys the schema, `valid` for other JSON, 0 for anything else.

    Raises:
        RewardError: the schema takes too long to check.
    """
    text = answer_text(sampled).strip()
    if options.fence and (fenced := _FENCE.match(text)):
        text = fenced[1]
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    if options.json_schema is None:
        return 1.0
    with unless_slow("the JSON Schema"):
        return 1.0 if _validator(json.dumps(options.json_schema)).is_valid(value) else options.valid


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


@cache
def _validator(schema: str) -> Any:
    """A validator that fetches nothing: a reference to another document is an error."""
    import jsonschema
    from referencing import Registry

    wanted = json.loads(schema)
    return jsonschema.validators.validator_for(wanted)(wanted, registry=Registry())


def start(options: JsonOptions, tools: Tools) -> Running:
    """The reward at work.

    Raises:
        UsageError: there is a schema and no library to check it with, or it is not a schema.
    """
    if options.json_schema is not None:
        if importlib.util.find_spec("jsonschema") is None:
            raise UsageError(
                "a reward with a JSON Schema needs the library jsonschema",
                where="reward 'json'",
                hint=f"Install it: {installing.command('json')}.",
            )
        _check_schema(options.json_schema)
    return pure(json_)(options, tools)


def _check_schema(schema: dict[str, Any]) -> None:
    import jsonschema

    validator = jsonschema.validators.validator_for(schema)
    try:
        validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise UsageError(f"'schema' is not a JSON Schema: {error.message}", where="reward 'json'") from None


REWARD = Reward("json", "valid JSON, by a schema", JsonOptions, start)

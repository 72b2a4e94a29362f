"""What a run says: lines that are read back as they were written, by older and newer readers."""

from __future__ import annotations

import json
import math
from typing import get_args

import pytest
from pydantic import ValidationError

from mlx_align.events import (
    AnyEvent,
    Event,
    Heartbeat,
    Step,
    parse,
)
from tests.every_event import EVERY_TYPE, step


@pytest.mark.parametrize("event", EVERY_TYPE, ids=lambda event: event.type)
def test_an_event_survives_its_line(event: Event) -> None:
    line = event.model_dump_json()
    assert "\n" not in line
    assert parse(line) == event
    assert json.loads(line)["v"] == 1


def test_every_type_is_tried() -> None:
    assert {type(event) for event in EVERY_TYPE} == set(get_args(get_args(AnyEvent)[0]))


# Newer and damaged lines


@pytest.mark.parametrize(
    "line",
    [
        '{"type":"telepathy","step":1}',
        '{"step":1}',
        "[]",
        "",
        '{"type":"step","st',
        '{"type":"heartbeat","step":"many"}',
        b'{"type":"heartbeat","step":\xff}',
    ],
)
def test_a_line_that_is_unknown_or_unreadable_is_nothing(line: str | bytes) -> None:
    assert parse(line) is None


def test_fields_of_a_newer_version_are_ignored() -> None:
    event = parse('{"type":"heartbeat","step":3,"v":2,"mood":"calm"}')
    assert isinstance(event, Heartbeat)
    assert (event.step, event.v) == (3, 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null(value: float) -> None:
    line = Step(
        step=1, epoch=0.0, loss=value, learning_rate=0.1, grad_norm=value, metrics={"margin": value}
    ).model_dump_json()

    def not_json(text: str) -> float:
        raise AssertionError(f"{text} is not JSON")

    raw = json.loads(line, parse_constant=not_json)
    assert (raw["loss"], raw["grad_norm"], raw["metrics"]["margin"]) == (None, None, None)
    event = parse(line)
    assert isinstance(event, Step)
    assert event.loss is None


def test_events_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        step(1).step = 2  # type: ignore[misc]

"""The event log: whole lines, numbered, and readable while it grows."""

from __future__ import annotations

import json
from pathlib import Path

from mlx_align.events import Alert, Event, Heartbeat, RunStarted
from mlx_align.runs import EventReader, EventWriter, fold, next_numbers
from mlx_align.runs import eventlog as module


def writer(path: Path, attempt: int = 1, seq: int = 0) -> EventWriter:
    return EventWriter(path, attempt=attempt, seq=seq, clock=lambda: 12.5)


def write(path: Path, *events: Event, attempt: int = 1, seq: int = 0) -> None:
    log = writer(path, attempt, seq)
    for event in events:
        log(event)
    log.sync()
    log.close()


def steps(events: object) -> list[int]:
    return [event.step for event in events if isinstance(event, Heartbeat)]  # type: ignore[attr-defined]


def test_events_are_numbered_and_stamped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, Heartbeat(step=1), Heartbeat(step=2), attempt=3, seq=7)
    got = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(e["seq"], e["attempt"], e["t"], e["step"]) for e in got] == [(7, 3, 12.5, 1), (8, 3, 12.5, 2)]
    assert next_numbers(path) == (4, 9)


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert list(EventReader(path).read()) == []
    assert next_numbers(path) == (1, 0)
    assert fold(path).status == "new"


def test_a_reader_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert steps(reader.read()) == []
    log = writer(path)
    log(Heartbeat(step=1))
    assert steps(reader.read()) == [1]
    assert steps(reader.read()) == []
    log(Heartbeat(step=2))
    log(Heartbeat(step=3))
    first = next(iter(reader.read()))  # and gives up in the middle
    assert isinstance(first, Heartbeat)
    assert first.step == 2
    assert steps(reader.read()) == [3]
    log.close()


def test_half_a_line_is_left_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = Heartbeat(step=5).model_dump_json().encode() + b"\n"
    reader = EventReader(path)
    with path.open("ab", buffering=0) as file:
        for at in range(1, len(line)):
            file.write(line[at - 1 : at])
            assert steps(reader.read()) == []
        file.write(line[-1:])
    assert steps(reader.read()) == [5]


def test_a_torn_last_line_spoils_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, Heartbeat(step=1), Heartbeat(step=2))
    path.write_bytes(path.read_bytes()[:-9])  # the writer was killed in the middle of its last line
    follower = EventReader(path)
    assert steps(follower.read()) == [1]
    attempt, seq = next_numbers(path)
    assert (attempt, seq) == (2, 1)
    write(path, Heartbeat(step=3), attempt=attempt, seq=seq)
    assert steps(follower.read()) == [3]
    assert steps(EventReader(path).read()) == [1, 3]


def test_a_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, Heartbeat(step=1))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    write(path, Heartbeat(step=2))
    assert steps(EventReader(path).read()) == [1, 2]


def test_text_may_hold_any_line_separator(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    text = "a\u2028b\u2029c\x85d\x0ce\rf\ng\x00h"
    write(path, Alert(code="x", message=text), Heartbeat(step=2))
    first, second = EventReader(path).read()
    assert isinstance(first, Alert)
    assert first.message == text
    assert steps([second]) == [2]


def test_unknown_and_unreadable_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, Heartbeat(step=1))
    with path.open("ab") as file:
        file.write(b'{"type":"telepathy","seq":99}\n\n\xff\xfe\nnot json\n')
    write(path, Heartbeat(step=2), seq=1)
    assert steps(EventReader(path).read()) == [1, 2]


def test_lines_longer_than_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    long = "ä" * module.CHUNK
    write(path, Alert(code="x", message=long), Heartbeat(step=2))
    first, second = EventReader(path).read()
    assert isinstance(first, Alert)
    assert first.message == long
    assert steps([second]) == [2]


def test_a_second_attempt_continues_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    begun = RunStarted(
        method="orpo", model="m", data="d", backend="mlx", device="cpu", pid=1, total_steps=1,
        train_rows=1, valid_rows=1, trainable_parameters=1,
    )  # fmt: skip
    write(path, begun)
    attempt, seq = next_numbers(path)
    write(path, begun.model_copy(update={"resumed_from": 0}), attempt=attempt, seq=seq)
    state = fold(path)
    assert (state.attempt, state.status, next_numbers(path)) == (2, "running", (3, 2))

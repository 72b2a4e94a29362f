"""Reading a run's log while it is written: growing, torn, cut off by a resume, or gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from mlx_align.events import Eval, Event
from mlx_align.run_state import RunState, reduce
from mlx_align.runs import EventReader, RunDirectory, RunLock
from mlx_align_tui.live import following
from mlx_align_tui.live.columns import Columns
from mlx_align_tui.live.following import Follower, Tail
from mlx_align_tui.live.runs import Index
from mlx_align_tui.live.watching import Look, Newest, watch
from tests.tui.fake_engine import Fake, new_run, written


def followed(run: RunDirectory) -> Follower:
    follower = Follower(run)
    while follower.poll():
        pass
    return follower


def test_a_log_is_read_in_parts_and_once(root: Path) -> None:
    run = written(root)
    follower = Follower(run)
    first = follower.poll(limit=10)
    assert first is not None
    assert first.count == 10
    assert first.more
    rest = follower.poll()
    assert rest is not None
    assert rest.count == len(run.events.read_bytes().splitlines()) - 10
    assert rest.condition == "finished"
    assert follower.poll() is None
    assert follower.state == run.state()


def test_a_torn_line_is_read_when_it_is_whole(root: Path) -> None:
    run = written(root)
    lines = run.events.read_bytes().split(b"\n")
    run.events.write_bytes(b"\n".join(lines[:20]) + b"\n" + lines[20][:30])
    follower = Follower(run)
    first = follower.poll()
    assert first is not None
    assert first.count == 20
    assert first.condition == "crashed", "nothing says how it ended, and no engine lives"
    with run.events.open("ab") as file:
        file.write(lines[20][30:] + b"\n")
    second = follower.poll()
    assert second is not None
    assert second.count == 1
    assert [step.seq for step in follower.state.steps][-1] == 20


def test_a_long_log_is_never_in_memory_as_events(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(root, steps=300)
    parts: list[int] = []
    real = following.reduce_all

    def folded(state: RunState, events: Sequence[Event]) -> RunState:
        parts.append(len(events))
        return real(state, events)

    monkeypatch.setattr(following, "reduce_all", folded)
    monkeypatch.setattr(following, "PART", 50)
    follower = Follower(run)
    progress = follower.poll(limit=120)
    assert progress is not None
    assert (progress.count, progress.more) == (120, True)
    assert max(parts) == 50, "events are many times as large as what is kept of them"
    assert followed(run).state == run.state()


def test_what_was_read_before_an_error_is_not_lost(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(root)
    expected, follower, real = run.state(), Follower(run), EventReader.read

    def interrupted(reader: EventReader) -> Iterator[Event]:
        yield from islice(real(reader), 10)
        raise OSError("the disk has gone")

    with monkeypatch.context() as broken:
        broken.setattr(EventReader, "read", interrupted)
        with pytest.raises(OSError, match="gone"):
            follower.poll()
    assert follower.poll() is not None
    assert follower.state == expected


def test_an_engine_that_dies_is_noticed(root: Path) -> None:
    run = new_run(root)
    Fake(run, "abort", 40).play()
    follower = Follower(run)
    with RunLock(run.lock):
        alive = follower.poll()
    assert alive is not None
    assert alive.condition == "running"
    dead = follower.poll()
    assert dead is not None
    assert dead.condition == "crashed"
    assert dead.count == 0


def test_columns_are_what_the_state_says(root: Path) -> None:
    run = written(root, "nan", steps=60)
    follower, columns = Follower(run), Columns()
    while follower.poll(limit=7):
        columns.follow(follower.state)
    loss = columns.curves()["train", "loss"]
    expected = [np.nan if step.loss is None else step.loss for step in follower.state.steps]
    np.testing.assert_array_equal(loss.value, expected)
    assert loss.step.tolist() == [step.step for step in follower.state.steps]
    assert loss.seconds[0] == follower.state.steps[0].t - follower.state.first_t
    margins = columns.curves()["valid", "margin"]
    assert margins.value.tolist() == [e.metrics["margin"] for e in follower.state.evals]


def test_what_a_resume_takes_back_leaves_the_curves(root: Path) -> None:
    run = written(root, "oom", steps=40)
    follower, columns = followed(run), Columns()
    columns.follow(follower.state)
    before = columns.curves()["train", "loss"]
    assert len(before.step) == 30
    Fake(run, "ok", 40).play()
    while follower.poll():
        columns.follow(follower.state)
    after, state = columns.curves()["train", "loss"], run.state()
    assert after.step.tolist() == [step.step for step in state.steps] == list(range(1, 41))
    assert after.seconds.tolist() == [step.t - state.first_t for step in state.steps]
    assert len(before.step) == 30, "an array that was given away does not change"


def test_views_stay_while_columns_grow(root: Path) -> None:
    run = written(root, steps=600)
    follower, columns = Follower(run), Columns()
    follower.poll(limit=100)
    columns.follow(follower.state)
    early = columns.curves()["train", "loss"]
    kept = early.value.copy()
    while follower.poll():
        columns.follow(follower.state)
    np.testing.assert_array_equal(early.value, kept)
    assert len(columns.curves()["train", "loss"].value) == 600


def test_a_share_that_is_left_out_where_it_is_0_is_a_whole_curve() -> None:
    state, columns = RunState(), Columns()
    for step, share in enumerate((None, None, 0.05, None)):
        metrics = {"reward": 0.5} | ({} if share is None else {"unscored": share})
        state = reduce(state, Eval(seq=step, step=step, rows=20, metrics=metrics))
        columns.follow(state)
    assert columns.curves()["valid", "unscored"].value.tolist() == [0.0, 0.0, 0.05, 0.0]


def test_columns_of_an_empty_state() -> None:
    columns = Columns()
    columns.follow(RunState())
    assert columns.curves() == {}


def test_the_end_of_a_log_and_what_is_added(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    tail = Tail(path)
    assert tail.read() == ""
    path.write_bytes(b"x" * 100_000 + b"end\n")
    first = tail.read()
    assert first.endswith("end\n")
    assert len(first) < 70_000
    with path.open("ab") as file:
        file.write(b"more \xff\n")
    assert tail.read() == "more \ufffd\n"
    with path.open("ab") as file:
        file.write("20 €".encode()[:-1])
    assert tail.read() == "20 "
    with path.open("ab") as file:
        file.write("€".encode()[-1:] + b" and \xe2")
    assert tail.read() == "€ and "
    path.write_bytes(b"anew\n")
    assert tail.read() == "anew\n", "half a letter of what is gone is gone too"


def test_watching_tells_what_is_new_and_ends(root: Path) -> None:
    run = written(root, "oom", method="grpo")
    looks: list[Look] = []
    waits: list[float] = []
    watch(run, looks.append, lambda seconds: waits.append(seconds) or len(waits) > 3, clock=lambda: 0.0)
    assert len(looks) == 1
    assert looks[0].condition == "failed"
    assert ("rollout", "reward") in looks[0].curves
    assert "loading" in looks[0].log


def looked(
    run: RunDirectory,
    times: int,
    between: Callable[[int], object] = lambda number: None,
    *,
    seconds: float = 10.0,
) -> list[Look]:
    """What is told in so many looks, so many seconds apart; `between` is called after each."""
    looks: list[Look] = []
    waits: list[float] = []

    def wait(asked: float) -> bool:
        waits.append(asked)
        between(len(waits))
        return len(waits) >= times

    watch(run, looks.append, wait, clock=lambda: seconds * len(waits))
    return looks


def test_time_goes_on_without_news_while_a_run_does(root: Path) -> None:
    run = written(root)
    with RunLock(run.lock):
        looks = looked(run, 5)
    assert [look.condition for look in looks] == ["running"] * 5
    assert looks[-1].log == ""
    assert len(looked(run, 5)) == 1, "of a run that is over there is nothing more to tell"


def test_a_run_that_cannot_be_read_for_a_while(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was folded in a look that failed is told by the next that does not; so is a recovery by itself."""
    run = written(root, steps=40)
    lines = run.events.read_bytes().splitlines(keepends=True)
    run.events.write_bytes(b"".join(lines[:20]))
    full = OSError(24, "Too many open files")
    broken = {2: full, 3: full, 4: OSError(5, "Input/output error"), 6: full}
    real, reads = Tail.read, [0]

    def read(tail: Tail) -> str:
        reads[0] += 1
        if (error := broken.get(reads[0])) is not None:
            raise error
        return real(tail)

    def grow(number: int) -> None:
        if number == 1:
            run.events.write_bytes(b"".join(lines))

    monkeypatch.setattr(Tail, "read", read)
    with RunLock(run.lock):
        looks = looked(run, 8, grow, seconds=0.0)
    assert [(look.condition, look.trouble) for look in looks] == [
        ("running", ""),
        ("unreadable", "Too many open files"),
        ("unreadable", "Input/output error"),
        ("running", ""),
        ("unreadable", "Too many open files"),
        ("running", ""),
    ]
    before = looks[0].state.step
    assert [look.state.step for look in looks] == [before, before, before, 40, 40, 40]
    assert "".join(look.log for look in looks) == "loading tiny-chat\n"


def test_a_run_that_could_never_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("mlx_align.runs.directory.is_held", refused)
    (look,) = looked(new_run(root), 3)
    assert (look.condition, look.trouble) == ("unreadable", "Permission denied")


def test_of_looks_that_wait_the_newest_is_seen_with_all_of_the_log() -> None:
    newest = Newest()
    assert newest.put(Look(log="one "))
    assert not newest.put(Look(condition="running", log="two "))
    assert not newest.put(Look(condition="finished", log="three"))
    look = newest.take()
    assert look is not None
    assert (look.condition, look.log) == ("finished", "one two three")
    assert newest.take() is None
    assert newest.put(Look())


def test_how_an_engine_died_is_told_once_it_is_known(root: Path) -> None:
    run = written(root, "abort", steps=40)
    codes = iter([None, -9, -9, -9])
    looks: list[Look] = []
    watch(run, looks.append, lambda seconds: len(looks) > 1, exit_code=lambda: next(codes), clock=lambda: 0.0)
    assert [look.death.message for look in looks if look.death] == [
        "the engine ended without a last word",
        "the engine was ended by SIGKILL",
    ]


def test_the_index_sees_runs_come_grow_and_go(root: Path) -> None:
    index = Index(root)
    assert index.poll() == []
    run = new_run(root)
    (entry,) = index.poll()
    assert (entry.condition, entry.method, entry.step) == ("new", "orpo", 0)
    Fake(run, "ok", 40).play()
    (entry,) = index.poll()
    assert (entry.condition, entry.step, entry.total_steps) == ("finished", 40, 40)
    assert entry.headline == ("margin", pytest.approx(0.6))
    assert len(entry.course) == 40
    assert index.poll()[0] is entry, "what has not changed is not read again"
    shutil.rmtree(run.path)
    assert index.poll() == []


def test_the_index_reads_a_little_at_a_time(root: Path) -> None:
    written(root, number=0)
    written(root, number=1)
    index = Index(root)
    first = index.poll(budget=50)
    assert first[0].course
    assert not first[1].course, "the older run waits, with what its summary says"
    assert first[1].condition == "finished"
    while len((entries := index.poll(budget=50))[1].course) < 100:
        assert len(entries) == 2


def test_a_run_that_cannot_be_read_is_in_the_list(root: Path) -> None:
    run = written(root)
    (run.path / "state.json").write_text("{ broken", encoding="utf-8")
    (entry,) = Index(root).poll()
    assert entry.condition == "unreadable"
    assert entry.problem


def test_the_index_says_running_and_crashed(root: Path) -> None:
    run = written(root, "abort")
    index = Index(root)
    with RunLock(run.lock):
        assert index.poll()[0].condition == "running"
    assert index.poll()[0].condition == "crashed"

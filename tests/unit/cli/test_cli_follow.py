from __future__ import annotations

import errno
import json
import signal
from pathlib import Path

import pytest
from example_run import (
    FAILED,
    FINISHED,
    SLOPPY,
    STOPPED,
    FakeEngine,
    beginning,
    make_run,
    sample,
    save_checkpoint,
    started,
    state_of,
    story,
)

from mlx_align.errors import AlignError, DeviceAbortError, DivergedError
from mlx_align.runs import STOP
from mlx_align_cli import follow
from mlx_align_cli.display import Display, Kind, choose
from mlx_align_cli.follow import follow_attached, follow_engine


class Recording(Display):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_finished_is_0_and_prints_only_the_adapter(root: Path, capsys: pytest.CaptureFixture[str]):
    run = make_run(root)
    assert follow_engine(run, FakeEngine(story(end=FINISHED)), choose(Kind.PLAIN)) == 0
    assert capsys.readouterr().out == f"{run.adapter.resolve()}\n"


def test_json_has_stdout_for_itself(root: Path, capsys: pytest.CaptureFixture[str]):
    events = story(end=FINISHED)
    assert follow_engine(make_run(root), FakeEngine(events), choose(Kind.JSON)) == 0
    assert len([json.loads(line) for line in capsys.readouterr().out.splitlines()]) == len(events)


def test_stopped_is_130(root: Path):
    assert follow_engine(make_run(root), FakeEngine(story(30, end=STOPPED)), Display()) == 130


def test_failed_has_its_own_code_and_words(root: Path):
    with pytest.raises(DivergedError, match="5 updates were not finite") as caught:
        follow_engine(make_run(root), FakeEngine(story(9, end=FAILED)), Display())
    assert caught.value.exit_code == 5
    assert (caught.value.where, caught.value.hint) == ("step 9", "Less.")


def test_a_crash_passes_through(root: Path):
    engine = FakeEngine([*story(3), DeviceAbortError("the engine was ended by SIGABRT")])
    with pytest.raises(DeviceAbortError):
        follow_engine(make_run(root), engine, Display())


def test_silence_is_an_error(root: Path):
    with pytest.raises(AlignError, match="without a last word"):
        follow_engine(make_run(root), FakeEngine(story(3)), Display())


def test_ctrl_c_once_saves_and_stops(root: Path):
    display = Recording()
    engine = FakeEngine([*beginning(), interrupt, STOPPED])
    assert follow_engine(make_run(root), engine, display) == 130
    assert engine.asked == ["stop"]
    assert display.notices == [follow.STOPPING]


def test_ctrl_c_twice_kills(root: Path, capsys: pytest.CaptureFixture[str]):
    display = Recording()
    killed = DeviceAbortError("the engine was ended by SIGKILL")
    engine = FakeEngine([*beginning(), interrupt, interrupt, killed])
    assert follow_engine(make_run(root), engine, display) == 130
    assert engine.asked == ["stop", "kill"]
    assert capsys.readouterr().err == "killed; no checkpoint had been saved\n"


def test_a_kill_says_which_checkpoint_is_left(root: Path, capsys: pytest.CaptureFixture[str]):
    run = make_run(root)
    save_checkpoint(run, 50)
    follow_engine(run, FakeEngine([*beginning(), interrupt, interrupt, AlignError("died")]), Recording())
    told = capsys.readouterr().err
    assert told == f"killed; the last checkpoint is step 50; go on with `mlx-align runs resume {run.name}`\n"


def test_a_run_that_finishes_despite_ctrl_c_has_finished(root: Path):
    assert follow_engine(make_run(root), FakeEngine([*beginning(), interrupt, FINISHED]), Recording()) == 0


def test_the_old_signal_handlers_come_back(root: Path):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    follow_engine(make_run(root), FakeEngine(story(end=FINISHED)), Display())
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_run_does_not_outlive_its_front_end(root: Path, capsys, number: signal.Signals, code: int):
    run = make_run(root)
    engine = FakeEngine([*beginning(), lambda: signal.raise_signal(number), FINISHED])
    with pytest.raises(SystemExit) as caught:
        follow_engine(run, engine, Display())
    assert caught.value.code == code
    assert engine.asked == ["stop"]
    told = capsys.readouterr().err
    assert "saves a checkpoint and stops" in told
    assert f"mlx-align runs resume {run.name}" in told


def test_nohup_is_respected(root: Path, monkeypatch):
    monkeypatch.setattr(follow, "ENDINGS", {signal.SIGHUP: "the terminal was closed"})
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        engine = FakeEngine([*beginning(), lambda: signal.raise_signal(signal.SIGHUP), FINISHED])
        assert follow_engine(make_run(root), engine, Display()) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert engine.asked == []


class Unread(Display):
    def show(self, event, state) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_output_that_nobody_reads_stops_the_run(root: Path, capsys: pytest.CaptureFixture[str]):
    run, engine = make_run(root), FakeEngine(beginning())
    assert follow_engine(run, engine, Unread()) == 1
    assert engine.asked == ["stop"]
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert f"mlx-align runs resume {run.name}" in told


def test_attached_neither_sigterm_nor_a_broken_pipe_stops_the_run(root: Path):
    run = make_run(root)
    engine = FakeEngine([*beginning(), lambda: signal.raise_signal(signal.SIGTERM)])
    with pytest.raises(SystemExit) as caught:
        follow_attached(run, engine.events(), Display())
    assert caught.value.code == 143
    with pytest.raises(BrokenPipeError):
        follow_attached(run, FakeEngine(beginning()).events(), Unread())
    assert engine.asked == []
    assert not run.control.requested(STOP)


def test_a_person_is_not_told_the_adapter_twice(root: Path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    follow_engine(make_run(root), FakeEngine(story(end=FINISHED)), choose(Kind.PLAIN))
    assert capsys.readouterr().out == ""
    follow_engine(make_run(root), FakeEngine(story(end=FINISHED)), choose(Kind.NONE))
    assert capsys.readouterr().out.endswith("/adapter\n")


def test_ctrl_c_while_attached_only_detaches(root: Path, capsys: pytest.CaptureFixture[str]):
    run = make_run(root)
    engine = FakeEngine([*beginning(), interrupt, FINISHED])
    assert follow_attached(run, engine.events(), choose(Kind.PLAIN)) == 0
    captured = capsys.readouterr()
    assert engine.asked == []
    assert captured.out == ""
    assert f"mlx-align runs attach {run.name}" in captured.err


def test_attached_to_the_end(root: Path, capsys: pytest.CaptureFixture[str]):
    run = make_run(root)
    assert follow_attached(run, FakeEngine(story(end=FINISHED)).events(), Display()) == 0
    assert capsys.readouterr().out.strip().endswith("adapter")


def test_a_resumed_run_remembers_how_it_began(root: Path, capsys: pytest.CaptureFixture[str]):
    earlier = story(30, end=STOPPED)
    again = [event.model_copy(update={"attempt": 2}) for event in [started(resumed_from=30), *story(30)[-5:]]]
    later = [*again, sample(60, "later"), FINISHED]
    follow_engine(make_run(root), FakeEngine(later), choose(Kind.PLAIN), state_of(earlier))
    told = capsys.readouterr().err
    assert f"before: {SLOPPY[:20]}" in told
    assert "after step 60: later" in told


def test_an_old_end_is_not_the_end_of_a_new_attempt(root: Path):
    with pytest.raises(AlignError, match="without a last word"):
        follow_engine(make_run(root), FakeEngine([]), Display(), state_of(story(30, end=STOPPED)))

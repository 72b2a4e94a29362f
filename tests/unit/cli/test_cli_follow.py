from __future__ import annotations

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
    started,
    state_of,
    story,
)

from mlx_align.errors import AlignError, DeviceAbortError, DivergedError, InterruptedRunError
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


def test_ctrl_c_twice_kills(root: Path):
    display = Recording()
    killed = DeviceAbortError("the engine was ended by SIGKILL")
    engine = FakeEngine([*beginning(), interrupt, interrupt, killed])
    with pytest.raises(InterruptedRunError, match="killed"):
        follow_engine(make_run(root), engine, display)
    assert engine.asked == ["stop", "kill"]


def test_a_run_that_finishes_despite_ctrl_c_has_finished(root: Path):
    assert follow_engine(make_run(root), FakeEngine([*beginning(), interrupt, FINISHED]), Recording()) == 0


def test_the_old_signal_handlers_come_back(root: Path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    follow_engine(make_run(root), FakeEngine(story(end=FINISHED)), Display())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_sigterm_leaves_the_engine_alone(root: Path):
    engine = FakeEngine([*beginning(), lambda: signal.raise_signal(signal.SIGTERM)])
    with pytest.raises(SystemExit) as caught:
        follow_engine(make_run(root), engine, Display())
    assert caught.value.code == 143
    assert engine.asked == []


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
    assert "after:  later" in told


def test_an_old_end_is_not_the_end_of_a_new_attempt(root: Path):
    with pytest.raises(AlignError, match="without a last word"):
        follow_engine(make_run(root), FakeEngine([]), Display(), state_of(story(30, end=STOPPED)))

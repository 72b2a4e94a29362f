"""The engine as a process: followed, stopped, killed, and called from Python in three lines."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mlx_align
from mlx_align import launched
from mlx_align.engine.launch import Engine, attach, crash, kill, launch
from mlx_align.errors import AlignError, DataError, DeviceAbortError, UsageError
from mlx_align.events import Event, RunFinished, RunStarted, RunStopped, Step
from mlx_align.runs import STOP, EventReader, EventWriter, RunDirectory, RunLock
from tests import support


def test_a_polite_signal_saves_and_stops(tmp_path: Path, brief: dict[str, Any]) -> None:
    run = support.new_run(tmp_path / "runs", **{**brief, "train__steps": 10_000})
    engine = launch(run)
    events: list[Event] = []
    for event in engine.events():
        events.append(event)
        if isinstance(event, Step) and event.step == 1:
            assert run.is_running()
            assert run.pid() == engine.process.pid
            with pytest.raises(UsageError, match="already working"):
                launch(run)
            engine.process.send_signal(signal.SIGTERM)
    assert engine.process.returncode == 130
    last = events[-1]
    assert isinstance(last, RunStopped)
    assert last.step < 10_000
    assert (run.path / last.checkpoint / "trainer.json").is_file()
    assert [event.seq for event in events] == list(range(len(events)))
    assert list(attach(run)) == events, "who attaches later reads the same"
    assert not run.is_running()


def test_an_engine_that_aborts_is_a_device_abort(tmp_path: Path, brief: dict[str, Any]) -> None:
    run = support.new_run(tmp_path / "runs", **{**brief, "train__steps": 10_000})
    engine = launch(run)

    def follow() -> None:
        for event in engine.events():
            if isinstance(event, RunStarted):
                os.kill(event.pid, signal.SIGABRT)

    with pytest.raises(DeviceAbortError, match="SIGABRT") as caught:
        follow()
    assert caught.value.exit_code == 6
    assert caught.value.hint is not None
    assert "runs resume" in caught.value.hint
    assert run.name in caught.value.hint
    assert run.condition(run.state()) == "crashed"
    with pytest.raises(AlignError, match="without a last word"):
        list(attach(run))


def test_an_engine_that_dies_before_its_first_word(tmp_path: Path) -> None:
    """The last word in the log is then an earlier attempt's, and says nothing about this one."""
    run = support.new_run(tmp_path / "runs")
    log = EventWriter(run.events, attempt=1, seq=0)
    log(RunStopped(step=2, checkpoint="checkpoints/step-000002"))
    log.close()
    reader = EventReader(run.events)
    assert len(list(reader.read())) == 1
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(AlignError, match="without a last word"):
        list(Engine(run, process, reader).events())


@pytest.mark.parametrize("leads", [True, False], ids=["by-launch", "by-hand"])
def test_an_engine_that_hangs_is_killed_whoever_started_it(tmp_path: Path, leads: bool) -> None:
    run = support.new_run(tmp_path / "runs")
    with pytest.raises(UsageError, match="is not running"):
        kill(run, run.pid())
    with support.lock_holder(run.lock, leads=leads) as process:
        kill(run, run.pid())
        assert process.wait() == -signal.SIGKILL
    assert not run.is_running()
    assert run.last_pid() == process.pid
    how = crash(run, process.returncode)
    assert type(how) is AlignError, "it was wished, and no fault of the device"
    assert "killed after it had been asked to stop" in how.message


def test_an_engine_is_killed_where_the_machine_has_another_name_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = support.new_run(tmp_path / "runs")
    with support.lock_holder(run.lock) as process:
        monkeypatch.setattr(platform, "node", lambda: "macbook.lan")
        kill(run, run.pid())
        assert process.wait() == -signal.SIGKILL


def test_an_engine_that_has_come_meanwhile_is_not_killed(tmp_path: Path) -> None:
    run = support.new_run(tmp_path / "runs")
    with support.lock_holder(run.lock) as process:
        with pytest.raises(UsageError, match="another engine works on the run"):
            kill(run, process.pid + 1)
        assert process.poll() is None
        assert not run.control.requested(STOP)


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ("{pid} elsewhere", f"It runs on 'elsewhere', and this is '{platform.node()}'"),
        ("{pid}", "Its lock does not say on which machine it runs"),
        (
            f"{{pid}} {platform.node()}\nanother start",
            f"It runs on another machine, or in another container, that is called '{platform.node()}' too",
        ),
        (f"{2**22 + 1} {platform.node()}", "No process of this number is seen here"),
    ],
)
def test_an_engine_that_cannot_be_killed_from_here_is_told_why(tmp_path: Path, held: str, why: str) -> None:
    """Over a network disk the lock is seen, and its process id is somebody else's here."""
    run = support.new_run(tmp_path / "runs")
    with support.lock_holder(run.lock) as process:
        run.lock.write_text(held.format(pid=process.pid))
        with pytest.raises(UsageError, match=why):
            kill(run, run.pid())
        assert process.poll() is None
    assert run.control.requested(STOP), "it can still be asked"


def test_somebody_elses_engine_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    run = support.new_run(tmp_path / "runs")
    monkeypatch.setattr(os, "kill", refuse)
    with RunLock(run.lock), pytest.raises(UsageError, match="It belongs to another user"):
        kill(run, run.pid())


def test_an_engine_that_has_just_ended_is_not_said_to_be_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = support.new_run(tmp_path / "runs")
    lock = RunLock(run.lock)

    def end(pid: int, number: int) -> None:
        lock.__exit__(None, None, None)
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(os, "kill", end)
    with lock, pytest.raises(UsageError, match="is not running"):
        kill(run, run.pid())


def test_three_lines_of_python(tmp_path: Path) -> None:
    data = support.small_data(tmp_path / "data", "completion")
    settings = {key: value for key, value in support.FAST.items() if not key.startswith("train.batch")}
    events: list[Event] = []
    run = mlx_align.align(
        "sft", data=data, settings={**settings, "runs.dir": "here", "train.steps": 1}, on_event=events.append
    )
    assert run.path.parent == Path("here")
    assert (run.adapter / "adapters.safetensors").is_file()
    assert isinstance(events[-1], RunFinished)
    assert run.state().status == "finished"


def test_what_python_is_told_when_it_cannot_begin(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        mlx_align.align("orpo", data=tmp_path / "none.jsonl")
    with pytest.raises(UsageError):
        mlx_align.align("orpo", model=str(tmp_path / "none"))
    with pytest.raises(UsageError, match="unknown method 'ppo'"):
        mlx_align.align("ppo")


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (-signal.SIGABRT, DeviceAbortError, "data.max_length"),
        (-signal.SIGKILL, DeviceAbortError, "smaller batches"),
        (-signal.SIGSEGV, DeviceAbortError, "SIGSEGV"),
        (-signal.SIGTERM, AlignError, "ended by SIGTERM"),
        (-signal.SIGINT, AlignError, "ended by SIGINT"),
        (-signal.SIGHUP, AlignError, "ended by SIGHUP"),
        (-signal.SIGALRM, AlignError, "ended by SIGALRM"),
        (1, AlignError, "without a last word"),
        (None, AlignError, "without a last word"),
    ],
)
def test_how_a_death_is_told(tmp_path: Path, code: int | None, kind: type[AlignError], said: str) -> None:
    error = crash(RunDirectory(tmp_path / "my-run"), code)
    assert type(error) is kind
    assert said in str(error)
    assert error.hint is not None
    assert "runs resume" in error.hint
    assert "my-run" in error.hint
    assert "ranks" not in error.hint, "it was alone"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (signal.SIGTERM, "still waiting for the other ranks"),
        (signal.SIGALRM, "ranks did not come"),
        (signal.SIGABRT, "data.max_length"),
    ],
)
def test_how_the_death_of_a_rank_is_told(
    tmp_path: Path, number: signal.Signals, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launched, "rank", lambda: 0)
    assert advice in (crash(RunDirectory(tmp_path / "my-run"), -number).hint or "")


def test_a_rank_that_is_stopped_while_it_waits_for_the_others_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Engine.stop` ends it by a signal then, because it hears no request."""
    monkeypatch.setattr(launched, "rank", lambda: 0)
    run = support.new_run(tmp_path / "runs")
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        engine = Engine(run, process, EventReader(run.events))
        engine.stop()
        with pytest.raises(AlignError, match="ended after it had been asked to stop") as caught:
            list(engine.events())
    assert type(caught.value) is AlignError
    assert "waiting" not in (caught.value.hint or "")

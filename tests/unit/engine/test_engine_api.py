"""What Python is offered: where settings come from, a plan, the run that an error ended, a resume."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlx_align
from mlx_align import api
from mlx_align.engine import exporting
from mlx_align.errors import AlignError, ConfigError, DataError, InterruptedRunError, UsageError
from mlx_align.events import Event, RunFailed, RunStarted, Step
from mlx_align.runs import STOP, RunLock
from mlx_align.settings import Resolved
from tests import support

FAILED = RunFailed(step=3, kind="data", message="a row is wrong", exit_code=3)


class FakeEngine:
    """Says these events, or raises the last; counts how often it is asked to stop."""

    def __init__(self, *story: Event | AlignError) -> None:
        self.story, self.stops = story, 0

    def events(self) -> Iterator[Event]:
        for event in self.story:
            if isinstance(event, AlignError):
                raise event
            yield event

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Resolved]:
    """What `align` would make a run of; it makes none."""
    seen: list[Resolved] = []

    def prepare(resolved: Resolved) -> None:
        seen.append(resolved)
        raise UsageError("enough")

    monkeypatch.setattr(api, "prepare", prepare)
    return seen


def sources(asked: list[Resolved], *arguments: Any, **options: Any) -> tuple[str, str]:
    """The model and the data that such a call would train."""
    with pytest.raises(UsageError, match="enough"):
        mlx_align.align("orpo", *arguments, **options)
    config = asked[-1].config
    return config.model.path, config.data.path


def test_model_and_data_come_from_the_layer_that_names_them(
    asked: list[Resolved], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sources(asked) == ("tiny-chat", "sample")
    assert sources(asked, settings={"model.path": "a", "data.path": "b.jsonl"}) == ("a", "b.jsonl")
    monkeypatch.setenv("MLX_ALIGN_MODEL__PATH", "mine")
    assert sources(asked, data=Path("b.jsonl")) == ("mine", "b.jsonl")
    assert sources(asked, "theirs") == ("theirs", "sample")


@pytest.mark.parametrize("name", ["model", "data"])
def test_what_is_named_twice_is_refused(asked: list[Resolved], name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}.path' is set twice, by the argument '{name}'"):
        mlx_align.align("orpo", **{name: "a"}, settings={f"{name}.path": "b"})
    assert not asked


def test_a_plan_is_asked_for_as_a_run_is() -> None:
    small, large = (
        mlx_align.plan("dpo", settings={"train.batch_size": rows, "backend.device": "cpu"}).plan
        for rows in (1, 8)
    )
    assert 0 < small.total < large.total
    assert not Path("runs").exists()
    with pytest.raises(ConfigError, match="set twice"):
        mlx_align.plan("dpo", "tiny-chat", settings={"model.path": "tiny-chat"})


@pytest.mark.parametrize(
    ("story", "kind"),
    [([FAILED], DataError), ([AlignError("no last word")], AlignError)],
    ids=["failed", "crashed"],
)
def test_an_error_has_the_run_that_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, story: list[Any], kind: type[AlignError]
) -> None:
    run = support.new_run(tmp_path / "runs")
    monkeypatch.setattr(api, "launch", lambda run: FakeEngine(*story))
    with pytest.raises(kind) as caught:
        mlx_align.resume(run)
    assert caught.value.run is run
    with pytest.raises(UsageError) as before:
        mlx_align.align("ppo")
    assert before.value.run is None


def test_ctrl_c_asks_for_a_stop_and_notes_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    run, engine = support.new_run(tmp_path / "runs"), FakeEngine(FAILED)
    monkeypatch.setattr(api, "launch", lambda run: engine)
    with pytest.raises(KeyboardInterrupt) as caught:
        mlx_align.resume(run, on_event=interrupt)
    assert engine.stops == 1
    (note,) = caught.value.__notes__
    assert str(run.path) in note
    assert "mlx_align.resume" in note


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, RunStarted):
            (newest,) = Path("here").iterdir()
            mlx_align.RunDirectory(newest).control.request(STOP)

    data = support.small_data(tmp_path / "data", "pair")
    settings = {**support.FAST, "runs.dir": "here", "backend.device": "cpu", "train.steps": 2}
    with pytest.raises(InterruptedRunError) as caught:
        mlx_align.align("orpo", data=data, settings=settings, on_event=stop)
    events: list[Event] = []
    run = mlx_align.resume(caught.value.run, device="auto", on_event=events.append)
    assert {event.attempt for event in events} == {2}, "what the first attempt said is not news"
    assert [event.step for event in events if isinstance(event, Step)][-1] == 2
    assert run.config().backend.device == "auto"
    assert (run.adapter / "adapters.safetensors").is_file()
    with pytest.raises(UsageError, match="has finished"):
        mlx_align.resume(run)


def test_what_cannot_be_resumed_stays_as_it_is(tmp_path: Path) -> None:
    run = support.new_run(tmp_path / "runs")
    written = (run.path / "config.toml").read_bytes()
    with RunLock(run.lock), pytest.raises(UsageError, match="is running"):
        mlx_align.resume(run, device="auto")
    with pytest.raises(ConfigError, match="must be"):
        mlx_align.resume(run, device="metal")
    assert (run.path / "config.toml").read_bytes() == written
    with pytest.raises(UsageError, match="there is no run at"):
        mlx_align.resume(mlx_align.RunDirectory(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_home_is_put_into_the_paths_of_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path | None] = []

    class FakeExporter:
        def __init__(self, *what: Any) -> None: ...

        def export(self, to: str, out: Path | None, options: Any) -> None:
            seen.append(out)

    monkeypatch.setattr(api, "Exporter", FakeExporter)
    monkeypatch.setattr(exporting, "verify_again", lambda path, **options: seen.append(path))
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    run = mlx_align.RunDirectory(tmp_path / "run")
    mlx_align.export_run(run, "mlx", "~/x")
    mlx_align.export_run(run, "mlx")
    mlx_align.verify_export("~/x")
    assert seen == [tmp_path / "x", None, tmp_path / "x"]
    with pytest.raises(ConfigError, match="nobody's home"):
        mlx_align.export_run(run, "mlx", "~nobody-of-this-name/x")

"""Data parallel: two ranks under a real `mlx.launch`, over a ring of sockets on this machine."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_align import embedded
from mlx_align.events import Checkpoint, RunFailed, RunFinished, RunStopped
from mlx_align.runs import EventReader, RunDirectory, list_runs
from tests import support
from tests.conftest import ROOT
from tests.same_run import arrays, measured

LAUNCHER = Path(sys.executable).with_name("mlx.launch")
CLOSE, UNSURE = 1e-5, 1e-3
SECONDS = 300


def free_port() -> int:
    """The first of two ports in a row that nobody has; below those the system gives out by itself."""
    for port in random.SystemRandom().sample(range(20000, 32000, 2), 200):
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise OSError("no free port")


@contextmanager
def two_ranks(*words: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`mlx.launch -n 2` of a Python program. Its input stays open: at its end it would turn in circles."""
    command = [LAUNCHER, "-n", "2", "-p", str(free_port()), "--backend", "ring", "--verbose", "--"]
    silence, voice = os.pipe()
    process = subprocess.Popen(
        [*map(str, command), sys.executable, "-P", *words],
        stdin=silence, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
        os.close(silence)
        os.close(voice)


def launch(*words: str, **options: Any) -> tuple[str, str]:
    """Standard output and error of both ranks; the launcher itself always ends with 0."""
    with two_ranks(*words, **options) as process:
        return process.communicate(timeout=SECONDS)


def program(*words: str) -> tuple[str, str]:
    return launch("-m", "mlx_align_cli.main", *words)


# The same training: every scene is played by two ranks with batch b, and by one with batch 2b, or, where a
# budget of tokens holds for each rank, by one that accumulates twice as many batches


def odd_data(folder: Path, rows: str) -> Path:
    """21 rows: an epoch of batches of four ends with a single row, and the second rank has nothing to do."""
    support.small_data(folder, rows)
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "train.jsonl").write_text("\n".join(lines[:21]) + "\n", encoding="utf-8")
    return folder


def doubled(settings: dict[str, Any]) -> dict[str, Any]:
    """What one rank reads to train as two with these settings do."""
    key = "train__accumulate" if "train__tokens_per_batch" in settings else "train__batch_size"
    return {**settings, key: 2 * settings.get(key, 1)}


BRIEF = {
    "train__steps": 6,
    "train__batch_size": 2,
    "eval__rows": 5,
    "eval__every": 3,
    "checkpoint__every": 4,
    "optim__lr": 1e-4,
}
FAST = 3e-3
"""A learning rate at which six updates make margins that are more than rounding."""
SAME: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "orpo, epochs that end with one row": ("orpo", {"train__accumulate": 2, "train__steps": 8}, {}),
    "dpo, with a reference": ("dpo", {"train__accumulate": 3, "optim__lr": FAST}, {}),
    "simpo, as many tokens": ("simpo", {"train__batch_size": None, "train__tokens_per_batch": 256}, {}),
    "sft, muon": ("sft", {"train__batch_size": 1, "optim__name": "muon"}, {}),
    "orpo, over the prompt": ("orpo", {"method__nll": "prompt+response"}, {}),
    "orpo, no longer better": (
        "orpo",
        {"eval__every": 1, "eval__patience": 2, "eval__metric": "accuracy"},
        {},
    ),
    "dpo, stopped and resumed": (
        "dpo",
        {"train__accumulate": 3, "optim__lr": FAST},
        {"stop": [1, 8], "checkpoint": [0, 5]},
    ),
}


@dataclass
class Played:
    """What became of the scenes."""

    runs: dict[str, tuple[RunDirectory, RunDirectory]] = field(default_factory=dict)
    codes: list[list[int]] = field(default_factory=list)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("played")
    result, scenes = Played(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, (method, settings, happens) in SAME.items():
            data = odd_data(folder / method, "completion" if method == "sft" else "pair")
            common = {**BRIEF, **settings, "data__path": str(data)}
            run = support.new_run(folder / "two" / name.replace(" ", "-"), method, **common)
            one = support.new_run(folder / "one" / name.replace(" ", "-"), method, **doubled(common))
            result.runs[name] = run, one
            scenes += [{"run": str(run.path), **happens}, *([{"run": str(run.path)}] if happens else [])]
        (folder / "plan.json").write_text(json.dumps(scenes))
        out, err = launch("-m", "tests.e2e.one_rank", str(folder / "plan.json"))
        assert (folder / "codes-0.json").is_file(), out + err
        result.codes = [json.loads((folder / f"codes-{rank}.json").read_text()) for rank in range(2)]
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache-of-one"))
        for _, one in result.runs.values():
            assert support.engine(one) == 0
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_two_ranks_are_one_with_batches_twice_as_large(played: Played, name: str) -> None:
    run, one = played.runs[name]
    assert isinstance(run.state().end, RunFinished), run.state().end
    got, want = arrays(run), arrays(one)
    assert got.keys() == want.keys()
    for key, value in want.items():
        np.testing.assert_allclose(got[key], value, rtol=CLOSE, atol=CLOSE, err_msg=key)
    ours, theirs = measured(run), measured(one)
    assert len(ours) == len(theirs)
    for event, other in zip(ours, theirs, strict=True):
        assert_close(event, other)
    assert any(sure(other["metrics"]) for other in theirs if "metrics" in other)


def sure(metrics: dict[str, Any]) -> bool:
    """Whether margins are more than rounding; in DPO's first steps their signs are not."""
    return abs(metrics.get("margin", 1.0)) >= UNSURE


def assert_close(event: Any, other: Any) -> None:
    if isinstance(other, dict):
        assert event.keys() == other.keys()
        for key in other.keys() - {"padded", *([] if sure(other) else ["accuracy"])}:
            assert_close(event[key], other[key])
    elif isinstance(other, float):
        assert event == pytest.approx(other, rel=CLOSE, abs=CLOSE)
    else:
        assert event == other


@pytest.mark.slow
def test_all_ranks_end_alike(played: Played) -> None:
    first, second = played.codes
    assert first == second
    assert first == [0] * (len(SAME) - 1) + [130, 0]


@pytest.mark.slow
def test_a_stop_that_any_rank_asks_for_comes_in_the_middle_of_a_window(played: Played) -> None:
    run, _ = played.runs["dpo, stopped and resumed"]
    events = list(EventReader(run.events).read())
    (stopped,) = [event for event in events if isinstance(event, RunStopped)]
    saved = [event.path for event in events if isinstance(event, Checkpoint)]
    assert stopped.checkpoint == "checkpoints/step-000002-m002"
    assert "checkpoints/step-000001-m002" in saved, "asked for and made, and the window went on"
    assert run.env()["ranks"] == 2


@pytest.mark.slow
def test_a_rank_with_other_data_or_another_model_is_refused_on_all(tmp_path: Path) -> None:
    """And one that dies leaves none waiting."""
    other = odd_data(tmp_path / "elsewhere", "pair")
    model = tmp_path / "model"
    shutil.copytree(embedded.model_folder(), model)
    facts = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**facts, "rms_norm_eps": 2e-6}))
    data, weights, dies = [support.new_run(tmp_path / "runs", "orpo", train__steps=4) for _ in range(3)]
    scenes = [
        {"run": str(data.path), "other": [1, "data", str(other)]},
        {"run": str(weights.path), "other": [1, "model_folder", str(model)]},
        {"run": str(dies.path), "die": [1, 2]},
    ]
    (tmp_path / "plan.json").write_text(json.dumps(scenes))
    out, err = launch("-m", "tests.e2e.one_rank", str(tmp_path / "plan.json"))
    assert (tmp_path / "codes-0.json").is_file(), out + err
    assert json.loads((tmp_path / "codes-0.json").read_text()) == [3, 3, 1]
    ends = [run.state().end for run in (data, weights, dies)]
    messages = [end.message for end in ends if isinstance(end, RunFailed)]
    assert messages[0].startswith("on rank 1 (")
    assert "not the data that rank 0 has" in messages[0]
    assert "differ in the model's weights" in messages[1]
    assert "another rank has gone" in messages[2]


# The program


@pytest.mark.slow
def test_the_program_stops_and_goes_on_with_two_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run directory, one voice, and nothing left of the second rank."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    data = support.small_data(tmp_path / "data", "pair")
    settings = {
        **support.FAST,
        "train.steps": 400,
        "eval.every": 0,
        "checkpoint.every": 100,
        "data.path": data,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    with two_ranks("-m", "mlx_align_cli.main", "orpo", "--json", *words) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"step"' in line and json.loads(line)["type"] == "step":
                break
        (run,) = list_runs(tmp_path / "runs")
        run.control.request("stop")
        out, err = process.communicate(timeout=SECONDS)
    assert "Node with rank 0 exited with code 130" in err
    assert out.count("run_stopped") == 1
    assert isinstance(run.state().end, RunStopped)
    stopped_at = run.state().step
    assert 0 < stopped_at < 400
    text = (run.path / "config.toml").read_text().replace("steps = 400", f"steps = {stopped_at + 2}")
    (run.path / "config.toml").write_text(text)
    out, err = program("runs", "resume", "last", "--display", "plain")
    state = run.state()
    assert isinstance(state.end, RunFinished), out + err
    assert [step.step for step in state.steps] == list(range(1, stopped_at + 3))
    assert out.split() == [str(run.adapter)], "said once"
    assert [each.path for each in list_runs(tmp_path / "runs")] == [run.path]
    assert not [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("mlx-align-rank-")]


@pytest.mark.slow
def test_one_rank_speaks(tmp_path: Path) -> None:
    out, err = program("orpo", "--dry-run")
    assert out.count("train.batch_size") == 1
    assert "exited with code" not in err
    out, err = program("orpo", "--detach")
    assert err.count("cannot be detached") == 1
    assert "Node with rank 0 exited with code 2" in err
    assert not (tmp_path / "runs").exists()

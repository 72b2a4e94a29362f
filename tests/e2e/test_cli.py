"""The program as a person uses it: real processes, real terminals, documented exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_align import embedded
from mlx_align.events import RunFinished, parse
from mlx_align.runs import find
from tests import support

BROKEN = embedded.samples_folder() / "broken"
EXPECTED: dict[str, dict[str, Any]] = json.loads((BROKEN / "expected.json").read_text(encoding="utf-8"))
PROGRAM = [sys.executable, "-m", "mlx_align_cli.main"]


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, **options)


def fast() -> list[str]:
    return [word for key, value in support.FAST.items() for word in ("--set", f"{key}={value}")]


def assert_clean(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in " ".join(done.stderr.split()), done.stderr


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_broken_data_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    expected = EXPECTED[name]
    method = {"completion": "sft", "pair": "orpo", "prompt": "grpo"}[expected["rows"]]
    done = program(
        method, "tiny-chat", str(BROKEN / name), "--set", "data.too_long=error", "--display", "plain"
    )
    place = name if expected["line"] is None else f"{name}:{expected['line']}"
    words = [place] if expected["key"] is None else [place, f"'{expected['key']}'"]
    assert_clean(done, 3, *words)
    assert not done.stdout


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "missing model": (["orpo", "no-such-model"], 2, "there is no model"),
    "missing data": (["orpo", "tiny-chat", "no-such-file.jsonl"], 3, "no-such-file.jsonl"),
    "unknown key": (["orpo", "--set", "optim.lrate=1"], 2, "optim.lr"),
    "another method's key": (["orpo", "--set", "method.gamma=1"], 2, "unknown key"),
    "value out of range": (["dpo", "--set", "method.beta=-1"], 2, "greater than 0"),
    "conflict": (["orpo", "--steps", "5", "--epochs", "2"], 2, "both set"),
    "ignored value": (["dpo", "--set", "method.loss_type=ipo", "--set", "method.label_smoothing=0.1"], 2,
                      "no meaning"),
    "ignored decay": (["orpo", "--set", "optim.name=adam", "--set", "optim.weight_decay=0.1"], 2,
                      "no meaning"),
    "two starts": (["orpo", "--set", "adapter.start=x", "--set", "adapter.rank=2"], 2, "starting adapter"),
    "missing config": (["orpo", "-c", "nowhere.toml"], 2, "nowhere.toml"),
    "unwritable": (["orpo", "--runs-dir", "/dev/null/runs"], 1, "/dev/null/runs"),
    "no such run": (["runs", "show", "nothing"], 2, "no run"),
    "unknown module": (["orpo", "--set", "adapter.modules=['nonsense']"], 2, "self_attn.q_proj"),
    "missing adapter": (["orpo", "--set", "adapter.start=nowhere"], 2, "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_have_codes_and_one_clear_sentence(mistake: str) -> None:
    arguments, code, words = MISTAKES[mistake]
    assert_clean(program(*arguments), code, words)


def test_json_streams_events_on_stdout(tmp_path: Path) -> None:
    done = program("simpo", "--json", "--device", "cpu", *fast())
    assert_clean(done, 0)
    events = [parse(line) for line in done.stdout.split("\n") if line]
    assert None not in events
    assert isinstance(events[-1], RunFinished)


def test_from_python_in_three_lines(tmp_path: Path) -> None:
    import mlx_align

    run = mlx_align.align("orpo", settings={**support.FAST, "backend.device": "cpu"})
    assert (run.adapter / "adapters.safetensors").is_file()


def test_detached_run_survives_its_terminal(tmp_path: Path) -> None:
    """Start in a terminal that is then closed; find it, follow it, stop it, resume it."""
    arguments = [
        "orpo",
        "--detach",
        "--steps",
        "4000",
        "--set",
        "eval.rows=4",
        "--set",
        "checkpoint.every=1000",
    ]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [*PROGRAM, *arguments])
    with os.fdopen(terminal, "rb", buffering=0) as output:
        try:
            while output.read(1024):
                pass
        except OSError:  # Linux: the last process has left the terminal
            pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    run = find(tmp_path / "runs", "last")
    listed = program("runs", "ls", "--json")
    assert_clean(listed, 0)
    assert run.name in listed.stdout
    attach = [*PROGRAM, "runs", "attach", "last", "--json"]
    with subprocess.Popen(attach, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        for line in follower.stdout:
            if json.loads(line)["type"] == "step":
                break
        assert_clean(program("runs", "stop", "last"), 0)
        assert "run_stopped" in follower.stdout.read()
    assert follower.returncode == 130
    assert not run.is_running()
    assert run.state().status == "stopped"
    assert run.checkpoints().latest() is not None

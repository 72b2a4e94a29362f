"""The terminal UI in a real terminal, with keys only: from an empty folder to a model that answers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlx_align.runs import RunDirectory, list_runs
from tests.conftest import ROOT

DEADLINE = 180.0
APP = (sys.executable, "-m", "mlx_align_cli.main")


class Terminal:
    """A tmux of its own with one pane of 80 x 24, in which the app is the only process."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", os.devnull]
        self._run("new-session", "-d", "-x", "80", "-y", "24", "-s", "ui", "sh")
        self._run("set-option", "-g", "remain-on-exit", "on")
        self.open()

    def _run(self, *command: str) -> str:
        done = subprocess.run([*self._tmux, *command], capture_output=True, text=True, check=True)
        return done.stdout

    def open(self) -> None:
        """Start the app, in place of what was in the pane."""
        self._run("respawn-pane", "-k", "-t", "ui", *APP)

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names for them."""
        self._run("send-keys", "-t", "ui", *keys)

    def type(self, text: str) -> None:
        """Type text as it is."""
        self._run("send-keys", "-t", "ui", "-l", text)

    @property
    def screen(self) -> str:
        """What is to be seen."""
        return self._run("capture-pane", "-p", "-t", "ui")

    @property
    def pid(self) -> int:
        """The app's process."""
        return int(self._run("display-message", "-p", "-t", "ui", "#{pane_pid}"))

    @property
    def ended(self) -> str:
        """Once the app has ended: "ended", and its exit code if it had one; before that, nothing."""
        form = "#{?pane_dead,ended #{pane_dead_status},}"
        return self._run("display-message", "-p", "-t", "ui", form).strip()

    def sees(self, *patterns: str) -> str:
        """Wait until all of these regular expressions are on the screen; return it."""
        until(lambda: all(re.search(pattern, self.screen) for pattern in patterns), self, str(patterns))
        return self.screen

    def close(self) -> None:
        """End the app and tmux."""
        self._run("kill-server")


def until(condition: Callable[[], object], terminal: Terminal, what: str) -> None:
    """Wait for something; if it does not happen, say what was on the screen instead."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"never seen: {what}; the screen:\n{terminal.screen}"
        time.sleep(0.05)


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """The app in a terminal, in an empty folder; nothing it started outlives the test."""
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux on this machine")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "apps")]))
    opened = Terminal(tmp_path)
    yield opened
    for run in list_runs(tmp_path / "runs"):
        if (pid := run.pid()) is not None:
            os.kill(pid, signal.SIGKILL)
    opened.close()


def launch(terminal: Terminal) -> None:
    """The demo, from the New run screen."""
    terminal.sees("No runs here yet")
    terminal.press("n")
    terminal.sees("New run › Model", "comes with this program")
    terminal.press("Enter")
    terminal.sees("New run › Data", "for every method")
    terminal.press("Enter")
    terminal.sees("New run › Method", "Odds ratio", "beta")
    terminal.press("C-n")
    terminal.sees("New run › Plan", r"fits \d+ MB", "activations")
    terminal.press("C-n")
    terminal.sees("New run › Launch", re.escape("$ mlx-align orpo tiny-chat sample"))
    terminal.press("F5")
    terminal.sees("Monitor › ", r"running · step [1-9]\d*/150", "margin", "accuracy")


def test_from_nothing_to_a_model_that_answers(terminal: Terminal, tmp_path: Path) -> None:
    launch(terminal)
    (run,) = list_runs(tmp_path / "runs")

    os.kill(terminal.pid, signal.SIGKILL)  # the terminal's window is gone; the engine is not
    until(lambda: terminal.ended, terminal, "the end of the app")
    before = run.state().step
    until(lambda: run.state().step > before + 2, terminal, "steps without a screen")

    engine = run.pid()
    assert engine is not None
    os.kill(engine, signal.SIGSTOP)  # the demo is short: it is not to end while the app starts
    terminal.open()
    terminal.sees("1 run · 1 running", r"orpo +tiny-chat")
    os.kill(engine, signal.SIGCONT)
    terminal.press("Enter")
    terminal.sees("Monitor › ", r"running · step \d+/150")
    terminal.press("s")
    terminal.sees(r"stopped · step \d+/150")
    until(lambda: not run.is_running(), terminal, "the engine's end, just after its last word")
    assert run.checkpoints().latest() is not None

    export(terminal, run)
    terminal.press("Escape")
    terminal.sees(r"stopped · step")
    chat(terminal)

    terminal.press("C-q")
    until(lambda: terminal.ended, terminal, "the end of the app")
    assert terminal.ended in ("ended", "ended 0")  # tmux may miss the code of a process that ends under load
    assert "Traceback" not in terminal.screen


def export(terminal: Terminal, run: RunDirectory) -> None:
    """To mlx and gguf, both verified by those who will read them."""
    terminal.press("e")
    screen = terminal.sees("Export › ", r"mlx +adapter", r"gguf +model for llama.cpp")
    targets = re.findall(r"^ +(mlx|peft|gguf-adapter|gguf|hf) +\w+ for ", screen, re.MULTILINE)
    terminal.press("Space")  # marks, and goes on to the next
    terminal.press(*["j"] * (targets.index("gguf") - 1), "Space", "F5")
    terminal.sees(r"2 done")
    screen = terminal.sees(r"exports \(2\)")
    assert "✘" not in screen, screen
    assert (run.path / "exports" / "mlx" / "adapters.safetensors").is_file()
    assert list((run.path / "exports").glob("*.gguf"))


def chat(terminal: Terminal) -> None:
    """Base and tuned answer one question, side by side."""
    terminal.press("a")
    terminal.sees("Chat › ", "Blind")  # a key that is offered once the model is there
    terminal.type("What is the capital of France?")
    terminal.press("Enter")
    screen = terminal.sees("base ", r"tuned, step \d+ ", r"Left better")
    assert screen.count("tokens") == 3, screen  # of both answers, and the setting

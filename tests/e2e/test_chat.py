"""The chat as processes: a person at a terminal, a program that talks to the engine, a client that dies."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_align import embedded
from mlx_align.chat import Chat, Turn
from mlx_align.config import AdapterConfig, BackendConfig, RunConfig
from mlx_align.data import load_dataset
from mlx_align.engine.chat.protocol import Ask, Hello, Open, Token, encoded, reply
from mlx_align.engine.generate import generate_text
from mlx_align.errors import DeviceAbortError
from mlx_align.runs import RunDirectory
from tests import support

CPU = BackendConfig(device="cpu")
CTRL_C, UNHEARD = "\x03", 5.0
"""The key, and the seconds after which it has not been heard."""
PROGRAM = [sys.executable, "-m", "mlx_align_cli.main"]
PROMPTS = ["What is 2 + 3?", "What is the capital of France?", "Write the word garden in capital letters."]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with an adapter that changes every answer."""
    made = support.new_run(tmp_path / "runs")
    made.adapter.mkdir()
    support.policy(AdapterConfig(rank=4), spread=1.0).save_adapter(made.adapter)
    return made


def answers(adapter: Path | None, prompts: list[str]) -> list[str]:
    return generate_text(RunConfig(backend=CPU), embedded.model_folder(), adapter, prompts, max_tokens=24)


class Terminal:
    """A program with a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self.child, self.descriptor = pty.fork()
        if self.child == 0:
            os.environ.update(TERM="xterm", COLUMNS="120", LINES="40")
            os.execv(command[0], command)
        self.seen = b""

    def until(self, *words: str) -> str:
        """What is shown until all these words have been, in their order."""
        for word in words:
            while word.encode() not in self.seen:
                self.seen += os.read(self.descriptor, 1 << 16)
            before, found, self.seen = self.seen.partition(word.encode())
        return (before + found).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def interrupt(self, *words: str) -> None:
        """Press Ctrl-C until the first of these words is there, and wait for the others.

        One that comes between Python's prompt and its listening is heard only with the next key.
        """
        self.type(CTRL_C)
        while words[0].encode() not in self.seen:
            if select.select([self.descriptor], [], [], UNHEARD)[0]:
                self.seen += os.read(self.descriptor, 1 << 16)
            else:
                self.type(CTRL_C)
        self.until(*words)

    def end(self) -> int:
        """Its exit code, when it has ended."""
        try:
            while os.read(self.descriptor, 1 << 16):
                pass
        except OSError:  # Linux: the last process has left the terminal
            pass
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


def test_a_person_compares_two_answers_at_a_terminal(run: RunDirectory) -> None:
    base, tuned = (answers(adapter, PROMPTS[:1])[0] for adapter in (None, run.adapter))
    assert base != tuned
    terminal = Terminal(*PROGRAM, "chat", run.name, "--compare", "base", "--max-tokens", "24")
    terminal.until("/help", "> ")
    terminal.type(PROMPTS[0] + "\n")
    terminal.until("base", "tuned", base[:12], "tokens in", "> ")
    terminal.type("/right\n")
    terminal.until("right, the tuned answer, is better", "> ")
    terminal.type(PROMPTS[1] + "\n")
    terminal.until("base", "tuned", "tokens in", "> ")
    terminal.type("/left\n")
    terminal.until("left, the base answer, is better", "> ")
    terminal.interrupt("Ctrl-C again leaves", "> ")
    terminal.interrupt("2 pairs kept", "preferences.jsonl", "better one in 1")
    assert terminal.end() == 130
    dataset = load_dataset(run.path / "preferences.jsonl", "pair", valid_fraction=0.1, seed=0)
    first, second = sorted([*dataset.train, *dataset.valid], key=lambda row: row.name)
    assert first.answers == (tuned, base)
    assert [message["content"] for message in first.prompt] == PROMPTS[:1]
    assert [message["content"] for message in second.prompt] == [PROMPTS[0], tuned, PROMPTS[1]]


def test_a_client_and_its_engine(run: RunDirectory) -> None:
    question = [Turn(role="user", content=PROMPTS[1])]
    with Chat(embedded.model_folder(), run.adapter, CPU) as chat:
        assert chat.hello.voices == ("tuned", "base")
        for who, adapter in (("tuned", run.adapter), ("base", None)):
            *tokens, done = chat.ask(who, question, max_tokens=24)
            assert "".join(token.text for token in tokens) == done.text == answers(adapter, PROMPTS[1:2])[0]
        cancelled = chat.ask("tuned", question, max_tokens=900, temperature=9.0, seed=1)
        next(cancelled)
        chat.cancel()
        *_, done = cancelled
        assert done.cancelled
        assert done.tokens < 900
        os.kill(chat._process.pid, signal.SIGKILL)
        with pytest.raises(DeviceAbortError, match="SIGKILL"):
            list(chat.ask("tuned", question, max_tokens=24))


def test_an_engine_says_nothing_but_messages_and_ends_with_its_client(run: RunDirectory) -> None:
    """The end of a pipe is all that it sees of a client that was killed."""
    turns = (Turn(role="user", content="Hi"),)
    with subprocess.Popen(
        [sys.executable, "-m", "mlx_align.engine.chat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as engine:  # fmt: skip
        assert engine.stdin is not None
        assert engine.stdout is not None
        engine.stdin.write(encoded(Open(model=str(embedded.model_folder()), backend=CPU)))
        ask = Ask(id=1, who="base", messages=turns, max_tokens=900, temperature=9.0, seed=1)
        engine.stdin.write(encoded(ask) + b'{"torn')
        engine.stdin.flush()
        assert isinstance(reply(engine.stdout.readline()), Hello)
        assert isinstance(reply(engine.stdout.readline()), Token)
        engine.stdin.close()
        for line in engine.stdout:
            reply(line)
        assert engine.wait() == 0

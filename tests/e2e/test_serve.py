"""`mlx-align serve` as processes: whatever an app asks for, it gets the model with the adapter."""

from __future__ import annotations

import http.client
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlx_align import embedded
from mlx_align.config import AdapterConfig, BackendConfig, RunConfig
from mlx_align.engine.generate import generate_text
from tests import support

PROGRAM = [sys.executable, "-m", "mlx_align_cli.main"]
PROMPTS = ["What is 2 + 3?", "What is the capital of France?", "Write the word garden in capital letters."]


def answers(adapter: Path | None, prompts: list[str]) -> list[str]:
    config = RunConfig(backend=BackendConfig(device="cpu"))
    return generate_text(config, embedded.model_folder(), adapter, prompts, max_tokens=24)


@contextmanager
def serve(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The program, on any free port; it is ended at the end, and its server with it."""
    command = [*PROGRAM, "serve", *arguments, "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as program:  # type: ignore[call-overload]
        try:
            yield program
        finally:
            program.kill()


def ask(url: str, body: dict[str, Any] | None = None, path: str = "/chat/completions") -> dict[str, Any]:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port)
    data = None if body is None else json.dumps(body)
    connection.request(
        "POST" if data else "GET", place.path + path, data, {"Content-Type": "application/json"}
    )
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def content(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"]).strip()


def test_the_server_answers_as_the_adapter_does(tmp_path: Path) -> None:
    run = support.new_run(tmp_path / "runs")
    run.adapter.mkdir()
    support.policy(AdapterConfig(rank=4), spread=1.0).save_adapter(run.adapter)
    tuned, bare = answers(run.adapter, PROMPTS), answers(None, PROMPTS)
    assert not set(tuned) & set(bare)
    with serve(run.name) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        assert server.stdout.readline() == "\n"
        *curl, data = shlex.split(server.stdout.readline())
        assert curl[0] == "curl"
        body = json.loads(data)
        assert content(ask(url, {**body, "max_tokens": 24})) == answers(run.adapter, ["Hello"])[0]
        (listed,) = ask(url, path="/models")["data"]
        assert listed["id"] == run.name
        for model in (
            {},
            {"model": listed["id"]},
            {"model": str(embedded.model_folder())},
            {"model": "owner/any"},
        ):
            wanted = zip(PROMPTS, tuned, strict=True)
            for prompt, text in list(wanted)[: 1 if model else None]:
                messages = [{"role": "user", "content": prompt}]
                assert content(ask(url, {**model, "messages": messages, "max_tokens": 24})) == text
        server.send_signal(signal.SIGINT)
        errors = server.communicate()[1]
        assert server.returncode == 0, errors
        assert "Traceback" not in errors


def test_the_server_ends_with_the_program_that_started_it() -> None:
    with serve("tiny-chat") as server:
        assert server.stdout is not None
        assert server.stderr is not None
        url = server.stdout.readline().strip()
        assert ask(url, path="/models")["data"]
        server.kill()
        server.stderr.read()  # its end comes when nobody holds it any more, the server's own process included
        with pytest.raises(ConnectionError):
            ask(url, path="/models")

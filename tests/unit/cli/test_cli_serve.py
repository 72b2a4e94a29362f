"""Serving a model: what is checked before anything is loaded, and what is said then."""

from __future__ import annotations

import json
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from example_run import FINISHED, make_run, story

from mlx_align.errors import AlignError
from mlx_align.serving import Address, Server, free_address
from mlx_align_cli.commands.serve import curl


class FakeServer:
    """A server that ends at once, as `ending` says."""

    ending: Any = 0
    made: list[tuple[Any, ...]] = []  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def __init__(self, *arguments: Any) -> None:
        self.made.append(arguments)
        self.address = arguments[-1]

    def wait_until_ready(self) -> None:
        if isinstance(self.ending, AlignError):
            raise self.ending

    def wait(self) -> int:
        if isinstance(self.ending, BaseException):
            raise self.ending
        return int(self.ending)

    def stop(self) -> int:
        self.asked.append("stop")
        return 0

    def kill(self) -> int:
        self.asked.append("kill")
        return -9


@pytest.fixture
def fake(root: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeServer]:
    monkeypatch.setattr("mlx_align.serving.Server", FakeServer)
    monkeypatch.setattr(FakeServer, "made", [])
    monkeypatch.setattr(FakeServer, "asked", [])
    run = make_run(root, story(end=FINISHED))
    model = Path(run.env()["model_folder"])
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    run.adapter.mkdir()
    return FakeServer


def test_the_address_and_a_command_line_to_copy(cli: Any, fake: type[FakeServer]) -> None:
    result = cli("serve", "last", "--port", "0")
    ((name, model, adapter, address),) = fake.made
    assert (model.name, adapter.name) == ("tiny chat", "adapter")
    assert adapter.parent.name == name
    url, _, command, *_ = result.out.split("\n")
    assert url == address.url == f"http://127.0.0.1:{address.port}/v1"
    program, *_, place, header, kind, data, body = shlex.split(command)
    assert (program, place, header, kind, data) == (
        "curl", f"{url}/chat/completions", "-H", "Content-Type: application/json", "-d"
    )  # fmt: skip
    assert json.loads(body)["messages"][0]["role"] == "user"
    assert result.code == 0
    assert "warning" not in result.err


@pytest.mark.parametrize(
    ("ending", "code", "asked"),
    [
        (3, 3, []),
        (-15, 143, []),
        (KeyboardInterrupt(), 0, ["stop"]),
        (AlignError("the server ended with exit code 1 before it answered"), 1, ["kill"]),
    ],
)
def test_how_it_ends(
    cli: Any, fake: type[FakeServer], monkeypatch: Any, ending: Any, code: int, asked: Any
) -> None:
    monkeypatch.setattr(fake, "ending", ending)
    assert cli("serve", "last", "--port", "0").code == code
    assert fake.asked == asked


def test_a_port_in_use_is_told_before_anything_is_loaded(cli: Any, fake: type[FakeServer]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = cli("serve", "last", "--port", str(port))
    assert result.code == 2
    assert "in use" in result.err
    assert f"127.0.0.1:{port}" in result.err
    assert "--port" in result.err
    assert fake.made == []


def test_a_host_that_is_not_here(cli: Any, fake: type[FakeServer]) -> None:
    for host in ("203.0.113.7", "no such host"):
        result = cli("serve", "last", "--host", host)
        assert result.code == 2
        assert "--host is one of" in result.err
    assert cli("serve", "last", "--port", "70000").code == 2
    assert cli("serve", "nothing-like-it", "--port", "0").code == 2
    assert fake.made == []


def test_a_server_for_everyone_is_warned_about(cli: Any, fake: type[FakeServer]) -> None:
    result = cli("serve", "last", "--host", "0.0.0.0", "--port", "0")
    assert "warning: everyone who can reach 0.0.0.0" in result.err
    assert result.out.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "url", "private"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/v1", True),
        ("127.0.0.2", "http://127.0.0.2:80/v1", True),
        ("::1", "http://[::1]:80/v1", True),
        ("localhost", "http://localhost:80/v1", True),
        ("0.0.0.0", "http://127.0.0.1:80/v1", False),
        ("::", "http://[::1]:80/v1", False),
        ("192.168.1.5", "http://192.168.1.5:80/v1", False),
        ("my-mac.local", "http://my-mac.local:80/v1", False),
    ],
)
def test_addresses(host: str, url: str, private: bool) -> None:
    address = Address(host, 80)
    assert (address.url, address.private) == (url, private)


def test_a_quoted_command_line() -> None:
    assert shlex.split(curl("http://h/v1"))[2] == "http://h/v1/chat/completions"


def test_a_server_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_align.serving.sys.executable", "/bin/false")
    server = Server("name", tmp_path, None, free_address("127.0.0.1", 0))
    with pytest.raises(AlignError, match="exit code 1 before it answered"):
        server.wait_until_ready()
    assert server.stop() == 1

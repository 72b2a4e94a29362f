"""A model behind mlx-lm's OpenAI-compatible server, in a process of its own."""

from __future__ import annotations

import errno
import http.client
import ipaddress
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_align.errors import AlignError, UsageError

POLL_SECONDS = 0.1
PORTS = "Choose another --port; 0 takes any that is free."
HOSTS = "--host is one of this machine's addresses: 127.0.0.1 for itself alone, 0.0.0.0 for all of them."
GRACE = 10.0
"""Seconds for answers that are being made to end after the server was asked to."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  (recognised, not used)
"""Hosts that mean every address of this machine, and the one to reach it by from here."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def near(self) -> str:
        """The host by which this machine reaches it."""
        return EVERYWHERE.get(self.host, self.host)

    @property
    def url(self) -> str:
        """What an app asks for as the base URL."""
        host = f"[{self.near}]" if ":" in self.near else self.near
        return f"http://{host}:{self.port}/v1"

    @property
    def private(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def free_address(host: str, port: int) -> Address:
    """See that a server can listen there, before anything is loaded; port 0 takes any that is free.

    Raises:
        UsageError: the port is in use, or the host is none of this machine's.
    """
    try:
        family, kind, _, _, place = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
            trial.bind(place)
            trial.listen()
            return Address(host, int(trial.getsockname()[1]))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        elsewhere = isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL
        raise UsageError(
            f"nothing can listen there: {reason}", where=f"{host}:{port}", hint=HOSTS if elsewhere else PORTS
        ) from None


class Server:
    """A process that serves one model.

    Args:
        name: what the model is called in the list of models.
        model: a model folder.
        adapter: an adapter folder in mlx-lm's format, or None.
        address: from `free_address`.
    """

    def __init__(self, name: str, model: Path, adapter: Path | None, address: Address) -> None:
        self.address = address
        options = ["--model", str(model.resolve()), "--host", address.host, "--port", str(address.port)]
        if adapter is not None:
            options += ["--adapter-path", str(adapter.resolve())]
        self._process = subprocess.Popen(
            # -P: the folder a person works in is not a place to import from.
            [
                sys.executable,
                "-P",
                "-m",
                "mlx_align.backends.mlx.server",
                name,
                *options,
                "--log-level=WARNING",
            ],
            stdin=subprocess.PIPE,  # whose end tells it that this program has gone
            stdout=2,
            start_new_session=True,  # Ctrl-C comes to this program, which passes it on
        )

    def wait_until_ready(self) -> None:
        """Wait until the model is loaded and has answered.

        Raises:
            AlignError: the server ended, or cannot answer.
        """
        while not self._listens():
            if (code := self._process.poll()) is not None:
                raise AlignError(
                    f"the server ended with exit code {code} before it answered",
                    hint="Its last words are above.",
                )
            time.sleep(POLL_SECONDS)
        status, said = self.request("/v1/chat/completions", {**question("Hello"), "max_tokens": 1})
        if status != http.HTTPStatus.OK:
            raise AlignError(f"the server cannot answer: {said.get('error', status)}", where=self.address.url)

    def _listens(self) -> bool:
        try:
            self.request("/health")
        except OSError:
            return False
        return True

    def request(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Ask the server.

        Args:
            path: the whole path, "/v1/models" for example.
            body: posted as JSON; None: the path is got.

        Returns:
            the HTTP status, and the JSON object that came.

        Raises:
            OSError: it does not listen, or hung up.
        """
        connection = http.client.HTTPConnection(self.address.near, self.address.port)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = json.loads(answer.read() or b"{}")
            return answer.status, said if isinstance(said, dict) else {}
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(f"no answer came: {error!r}") from None
        finally:
            connection.close()

    def wait(self, seconds: float | None = None) -> int:
        """Wait until it has ended; returns its exit code.

        Raises:
            subprocess.TimeoutExpired: it has not after so many seconds.
        """
        code = self._process.wait(seconds)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code

    def stop(self) -> int:
        """Ask it to end, and end it if it does not; returns its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self.wait(GRACE)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it at once; returns its exit code."""
        self._process.kill()
        return self.wait()


def question(text: str) -> dict[str, Any]:
    """The body of a request for a chat completion."""
    return {"messages": [{"role": "user", "content": text}]}

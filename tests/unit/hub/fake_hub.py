"""The part of the Hugging Face hub that fetching a model needs, on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """A model repository with one commit, on branch main."""

    files: dict[str, bytes]
    gated: bool = False
    revisions: tuple[str, ...] = ("main", COMMIT)


@dataclass
class FakeHub:
    """A server of some repositories; `asked` has the paths of the files that were sent."""

    repos: dict[str, Repo]
    sent: list[str] = field(default_factory=list)

    def __enter__(self) -> FakeHub:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shut_down()

    def shut_down(self) -> None:
        """From now on a connection is refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self._api("/".join(parts[2:4]), parts[4:])
            elif len(parts) > 4 and parts[2] == "resolve":
                self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            else:
                self._refuse(404, "EntryNotFound")

        def _repo(self, name: str, revision: str) -> Repo | None:
            repo = hub.repos.get(name)
            if repo is None:
                self._refuse(404, "RepoNotFound")
            elif revision not in repo.revisions:
                self._refuse(404, "RevisionNotFound")
                return None
            return repo

        def _api(self, name: str, rest: list[str]) -> None:
            kind, revision = (*rest, "revision", "main")[:2] if rest else ("revision", "main")
            repo = self._repo(name, revision)
            if repo is None:
                return
            if kind == "tree":
                self._json([self._entry(path, data) for path, data in repo.files.items()])
            else:
                siblings = [{"rfilename": path} for path in repo.files]
                self._json({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": []})

        def _entry(self, path: str, data: bytes) -> dict[str, Any]:
            return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

        def _file(self, name: str, revision: str, path: str) -> None:
            repo = self._repo(name, revision)
            if repo is None:
                return
            if repo.gated:
                return self._refuse(403, "GatedRepo")
            if path not in repo.files:
                return self._refuse(404, "EntryNotFound")
            data = repo.files[path]
            digest = hashlib.sha1(data).hexdigest()
            if self.command == "GET":
                hub.sent.append(path)
            self._answer(200, data, {"ETag": f'"{digest}"', "X-Linked-Size": str(len(data))})

        def _json(self, value: Any) -> None:
            self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _refuse(self, status: int, code: str) -> None:
            self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "X-Repo-Commit": COMMIT}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler

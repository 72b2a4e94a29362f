"""The parts of the Hugging Face hub that fetching and uploading a model need, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = ".safetensors"
"""What files are called that a repository keeps apart, by their SHA-256."""


@dataclass
class Repo:
    """A model repository with one commit, on branch main; `closed`: the token may not read it."""

    files: dict[str, bytes]
    gated: bool = False
    closed: bool = False
    private: bool = False
    revisions: tuple[str, ...] = ("main", COMMIT)
    commit: str = COMMIT


@dataclass
class FakeHub:
    """A server of some repositories.

    Attributes:
        repos: by name.
        writers: token -> whose it is: who may make and change repositories under that name.
        role: of all tokens, as the hub tells it: "write", "read" or "fineGrained".
        sent: the paths of the files that were sent.
        served: bytes that were sent of each file, ranges of it included.
        down: whether it answers everything with an error of its own.
        commits: (repository, message) of what was uploaded.
        large: what came the way of large files, which is for 1000 bytes and more.
        vanishing: repositories that are gone as soon as they are made.
        trouble: what a commit is refused with; None: it is taken.
        flowing: while it is cleared, a file of 1000 bytes and more comes to its half only.
    """

    repos: dict[str, Repo]
    writers: dict[str, str] = field(default_factory=dict)
    role: str = "write"
    sent: list[str] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    down: bool = False
    commits: list[tuple[str, str]] = field(default_factory=list)
    large: list[bytes] = field(default_factory=list)
    vanishing: set[str] = field(default_factory=set)
    trouble: str | None = None
    flowing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.flowing.set()

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
            if hub.down:
                self._refuse(500, "")
            elif parts == ["api", "whoami-v2"]:
                self._whoami()
            elif parts[:2] == ["api", "models"]:
                self._api("/".join(parts[2:4]), parts[4:])
            elif len(parts) > 4 and parts[2] == "resolve":
                self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            else:
                self._refuse(404, "EntryNotFound")

        def _whoami(self) -> None:
            who = self._who()
            if who is None:
                return self._refuse(401, "")
            auth = {"type": "access_token", "accessToken": {"role": hub.role}}
            self._json({"type": "user", "name": who, "orgs": [{"name": f"{who}-lab"}], "auth": auth})

        def _who(self) -> str | None:
            return hub.writers.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

        def _repo(self, name: str, revision: str) -> Repo | None:
            repo = hub.repos.get(name)
            if repo is None:
                self._refuse(404, "RepoNotFound")
            elif revision not in (*repo.revisions, repo.commit):
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
                facts = {"id": name, "modelId": name, "sha": repo.commit, "private": repo.private, "tags": []}
                self._json({**facts, "siblings": siblings})

        def _entry(self, path: str, data: bytes) -> dict[str, Any]:
            entry = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            if not path.endswith(LARGE):
                return entry
            pointer = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            return {**entry, "oid": hashlib.sha1(b"pointer to " + data).hexdigest(), "lfs": pointer}

        def _file(self, name: str, revision: str, path: str) -> None:
            repo = self._repo(name, revision)
            if repo is None:
                return
            if repo.gated:
                return self._refuse(403, "GatedRepo")
            if repo.closed:
                return self._refuse(403, "")
            if path not in repo.files:
                return self._refuse(404, "EntryNotFound")
            data = repo.files[path]
            content = hashlib.sha256 if path.endswith(LARGE) else hashlib.sha1
            headers = {"ETag": f'"{content(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
            headers["X-Repo-Commit"] = repo.commit
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked:
                first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                data = data[first : last + 1]
            if self.command == "GET":
                hub.sent.append(path)
                hub.served[path] += len(data)
            self._answer(206 if asked else 200, data, headers)

        def do_PUT(self) -> None:
            hub.large.append(self._body())
            self._answer(200, b"", {})

        def do_POST(self) -> None:
            body, parts = self._body(), unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts == ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            elif parts == ["api", "repos", "create"]:
                self._create(json.loads(body))
            elif parts[2:] == ["info", "lfs", "objects", "batch"]:
                self._large(json.loads(body))
            elif self._may_write("/".join(parts[2:4])):
                name, action = "/".join(parts[2:4]), parts[4]
                if name not in hub.repos:
                    self._refuse(404, "RepoNotFound")
                elif action == "preupload":
                    self._modes(json.loads(body))
                else:
                    self._commit(name, [json.loads(line) for line in body.splitlines()])

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _may_write(self, name: str) -> bool:
            who = self._who()
            if who != name.split("/")[0]:
                self._refuse(401 if who is None else 403, "")
            return who == name.split("/")[0]

        def _create(self, wish: dict[str, Any]) -> None:
            name = f"{wish['organization']}/{wish['name']}"
            if not self._may_write(name):
                return
            private = wish.get("private") or wish.get("visibility") == "private"
            status = 409 if name in hub.repos else 200
            hub.repos.setdefault(name, Repo({}, private=private))
            self._json({"url": f"{hub.url}/{name}"}, status)
            if name in hub.vanishing:
                del hub.repos[name]

        def _modes(self, wish: dict[str, Any]) -> None:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= 1000 else "regular",
                    "shouldIgnore": False,
                }
                for file in wish["files"]
            ]
            self._json({"files": modes})

        def _large(self, wish: dict[str, Any]) -> None:
            objects = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/large/{each['oid']}"}}}
                for each in wish["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})

        def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
            if hub.trouble is not None:
                return self._answer(507, b"", {"X-Error-Message": hub.trouble})
            arrived = {hashlib.sha256(data).hexdigest(): data for data in hub.large}
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    hub.repos[name].files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.repos[name].files[value["path"]] = arrived[value["oid"]]
                else:
                    hub.commits.append((name, value["summary"]))
            page = f"{hub.url}/{name}/commit/{COMMIT}"
            self._json({"commitUrl": page, "commitOid": COMMIT, "pullRequestUrl": None})

        def _json(self, value: Any, status: int = 200) -> None:
            self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _refuse(self, status: int, code: str) -> None:
            self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                half = len(body) // 2 if len(body) >= 1000 and "ETag" in headers else 0
                self.wfile.write(body[:half])
                if half:
                    hub.flowing.wait()
                with suppress(ConnectionError):  # whoever asked has left meanwhile
                    self.wfile.write(body[half:])

    return Handler


def environment(server: FakeHub, folder: Path) -> dict[str, str]:
    """The variables by which another process speaks with this server; see `reached`."""
    return {
        "HF_ENDPOINT": server.url,
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_TOKEN_PATH": str(folder / "no-token"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }


@contextmanager
def reached(server: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Let huggingface_hub speak with this server, without anybody's token, its cache in a folder."""
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_TOKEN_PATH": str(folder / "no-token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()

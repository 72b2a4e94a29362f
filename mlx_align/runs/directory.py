"""A run is a directory: what is in it, how one is made, found, listed and removed."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from mlx_align.config import BackendConfig, RunConfig
from mlx_align.errors import AlignError, ConfigError, UsageError
from mlx_align.paths import typed
from mlx_align.run_state import RunState
from mlx_align.runs.atomic import write_json, write_text
from mlx_align.runs.checkpoints import Checkpoints, export_adapter
from mlx_align.runs.control import Control
from mlx_align.runs.eventlog import fold
from mlx_align.runs.lock import Holder, holder, is_held, last_holder
from mlx_align.toml import from_toml, to_toml
from mlx_align.wording import plain

Condition = Literal["new", "running", "finished", "stopped", "failed", "crashed"]


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk. Nothing is cached: each question is answered from the files."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name, which is the run's name."""
        return self.path.name

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self.path / "lock"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """Standard output and error of the engine."""
        return self.path / "engine.log"

    @property
    def adapter(self) -> Path:
        """The finished adapter, in mlx-lm's format."""
        return self.path / "adapter"

    @property
    def start(self) -> Path:
        """A copy of the adapter it started from, if it started from one."""
        return self.path / "start"

    def keep_start(self) -> None:
        """Copy the adapter it starts from: the reference must not change if the original does."""
        start = self.config().adapter.start
        if start is not None and not self.start.exists():
            export_adapter(typed(start), self.start)

    @property
    def control(self) -> Control:
        """Requests to the engine."""
        return Control(self.path / "control")

    def config(self) -> RunConfig:
        """The resolved configuration."""
        return from_toml(self.path / "config.toml")

    def checkpoints(self, keep: int = 1) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.path / "checkpoints", keep)

    def env(self) -> dict[str, Any]:
        """Facts about the run's origin: model folder and commit, data fingerprint, versions."""
        return _read_json(self.path / "env.json")

    @property
    def made(self) -> datetime | None:
        """What the clock of the machine that made it showed; None if an older version did, without a note."""
        made = self.env().get("made")
        return None if made is None else datetime.fromisoformat(made).replace(tzinfo=None)

    def state(self) -> RunState:
        """The run as its event log tells it."""
        return fold(self.events)

    def is_running(self) -> bool:
        """Whether an engine works on it now."""
        return is_held(self.lock)

    def holder(self) -> Holder | None:
        """The engine that works on it now: its process id and its machine."""
        return holder(self.lock)

    def pid(self) -> int | None:
        """The engine's process id while it runs."""
        held = self.holder()
        return held.pid if held is not None else None

    def last_pid(self) -> int | None:
        """The process id of the newest engine, whether or not it still runs."""
        held = last_holder(self.lock)
        return held.pid if held is not None else None

    def condition(self, state: RunState) -> Condition:
        """What became of it. An engine that died without a last word has crashed."""
        if self.is_running():
            return "running"
        return "crashed" if state.status == "running" else state.status

    def summary(self) -> dict[str, Any]:
        """The coarse state the engine last wrote: cheap to read for a long list of runs."""
        return _read_json(self.path / "state.json")

    def write_summary(self, **facts: Any) -> None:
        """Replace the coarse state."""
        write_json(self.path / "state.json", facts)

    def move(self, changes: dict[str, str]) -> BackendConfig:
        """Rewrite the `[backend]` section of its configuration, so that the next attempt runs elsewhere.

        Args:
            changes: keys of the section and their new values; the others stay.

        Returns:
            the section as it is now.

        Raises:
            ConfigError: a value is refused; the file is then as it was.
        """
        config = self.config()
        try:
            backend = BackendConfig.model_validate({**config.backend.model_dump(), **changes})
        except ValidationError as error:
            key = ".".join(["backend", *map(str, error.errors()[0]["loc"])])
            raise ConfigError(plain(error.errors()), where=key) from None
        write_text(self.path / "config.toml", to_toml(config.model_copy(update={"backend": backend})))
        env = self.env()
        moved = {f"backend.{key}": "runs resume" for key in changes}
        write_json(self.path / "env.json", {**env, "origins": {**env.get("origins", {}), **moved}})
        return backend

    def remove(self) -> None:
        """Delete the run.

        Raises:
            UsageError: an engine works on it.
        """
        if self.is_running():
            raise UsageError(
                f"the run '{self.name}' is running", hint=f"First `mlx-align runs stop {self.name}`."
            )
        shutil.rmtree(self.path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise AlignError(f"the file cannot be read: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise AlignError("the file is not what mlx-align writes there", where=str(path))
    return value


def slug(model: str) -> str:
    """A short, file-name-safe form of a model's name."""
    last = model.rstrip("/").rsplit("/", 1)[-1].lower()
    return re.sub(r"[^a-z0-9.]+", "-", last).strip("-.")[:40] or "model"


def create(root: Path, config: RunConfig, env: dict[str, Any], now: datetime | None = None) -> RunDirectory:
    """Make a new run directory with its configuration and environment, to which the present time is added.

    Raises:
        AlignError: the folder cannot be written.
    """
    now = now or datetime.now(UTC)
    stamp = now.strftime("%Y%m%d-%H%M%S")
    base = f"{stamp}-{config.method.name}-{slug(config.model.path)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        path = _fresh(root, base)
        write_text(path / "config.toml", to_toml(config))
        write_json(path / "env.json", {**env, "made": now.astimezone().isoformat(timespec="seconds")})
        write_json(path / "state.json", {"status": "new", "method": config.method.name})
    except OSError as error:
        raise AlignError(
            f"the run directory cannot be made: {error.strerror or error}",
            where=str(root),
            hint="Choose another place with --runs-dir, or mend its permissions.",
        ) from None
    return RunDirectory(path)


def _fresh(root: Path, base: str) -> Path:
    for number in range(1, 1000):
        path = root / (base if number == 1 else f"{base}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(17, "too many runs of this name", str(root / base))


def is_run(path: Path) -> bool:
    """Whether a folder is a run: other programs keep a config.toml too, so all three files must be there."""
    # Path.is_file raises for too long a name, or for somebody else's folder, which must not hide the others
    return all(os.path.isfile(path / name) for name in ("config.toml", "env.json", "state.json"))


def run_around(path: Path) -> RunDirectory | None:
    """The run that a file or folder lies in, however deep; None: in none."""
    # A link may lead into a run; and a run's exports may be a link to another disk, where the path as it is
    # typed is the one that shows the run, unless its ".." comes after a link.
    whole, typed = path.resolve(), Path(os.path.abspath(path))
    folders = [*whole.parents, *(typed.parents if typed.resolve() == whole else ())]
    return next((RunDirectory(folder) for folder in folders if is_run(folder)), None)


def list_runs(root: Path) -> list[RunDirectory]:
    """All runs below a folder, newest first."""
    if not root.is_dir():
        return []
    found = [RunDirectory(p) for p in root.iterdir() if is_run(p)]
    return sorted(found, key=lambda run: run.name, reverse=True)


def find(root: Path, name: str, *, exact: bool = False) -> RunDirectory:
    """A run by path, by name, by an unambiguous part of its name, or the newest as "last".

    Args:
        root: the folder that holds the runs.
        name: what a person typed.
        exact: a part of a name is not enough; for what cannot be undone.

    Raises:
        UsageError: there is none, or several fit.
    """
    if ("/" in name or name.startswith(".")) and is_run(Path(name)):
        return RunDirectory(Path(name).resolve())
    runs = list_runs(root)
    if name == "last" and runs:
        return runs[0]
    named = [run for run in runs if run.name == name]
    fitting = named or [run for run in runs if name and name in run.name and not exact]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(
            f"'{name}' fits {len(fitting)} runs", where=str(root), hint="Give more of the name: "
            + ", ".join(run.name for run in fitting[:4]) + ("..." if len(fitting) > 4 else "."),
        )  # fmt: skip
    raise UsageError(f"there is no run '{name}'", where=str(root), hint="`mlx-align runs ls` lists them.")

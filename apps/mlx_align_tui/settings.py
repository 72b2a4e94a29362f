"""What the terminal UI remembers from one start to the next: `tui.toml` beside the user's `config.toml`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlx_align.errors import AlignError, ConfigError
from mlx_align.runs.atomic import write_text
from mlx_align.settings import user_config_path
from mlx_align.toml import read_toml
from mlx_align.wording import plain

RECENT = 8
"""How many models and data sets are remembered."""
PATIENCE = 5.0
"""Seconds that one who leaves waits for a disk that is slow to write."""
HOLDS = "what you changed holds until you leave."


class Curves(BaseModel):
    """How Monitor and Compare draw."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    smoothing: int = Field(default=1, ge=1)
    log_scale: bool = False
    axis: Literal["step", "time"] = "step"


class Chatting(BaseModel):
    """How Chat asks."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    temperature: float = Field(default=0.7, ge=0, allow_inf_nan=False)
    max_tokens: int = Field(default=256, ge=1)
    blind: bool = False


class TuiSettings(BaseModel):
    """What is remembered. Unknown keys are ignored, so that an older version can read a newer file."""

    model_config = ConfigDict(extra="ignore", validate_assignment=True)

    theme: str = "align-dark"
    keys: dict[str, str] = {}
    """Binding id -> key, such as "runs.stop" -> "ctrl+s"; see the key list in the help of each screen."""
    curves: Curves = Curves()
    chat: Chatting = Chatting()
    tabs: dict[str, str] = {}
    """Screen -> the tab that was looked at last, such as "monitor" -> "samples"."""
    advanced: bool = False
    recent_models: tuple[str, ...] = ()
    recent_data: tuple[str, ...] = ()

    def remember_model(self, name: str) -> None:
        """Put a model first among the recent ones."""
        self.recent_models = _first(name, self.recent_models)

    def remember_data(self, path: str) -> None:
        """Put data first among the recent ones."""
        self.recent_data = _first(path, self.recent_data)


def _first(item: str, items: tuple[str, ...]) -> tuple[str, ...]:
    return (item, *(other for other in items if other != item))[:RECENT]


def settings_path() -> Path:
    """The file; it need not exist."""
    return user_config_path().with_name("tui.toml")


def load(path: Path | None = None) -> TuiSettings:
    """What was remembered; the defaults where nothing was.

    Raises:
        ConfigError: the file is not what it should be; the caller says so and goes on with the defaults.
    """
    try:
        return TuiSettings.model_validate(_read(path or settings_path()))
    except ConfigError as error:
        hint = "Mend or remove the file; until then the defaults hold."
        raise ConfigError(error.message, where=error.where, hint=hint) from None


def _read(path: Path) -> dict[str, Any]:
    """The file's tables, also what this version does not know of; none where there is no file."""
    if not path.is_file():
        return {}
    tree = read_toml(path)
    try:
        TuiSettings.model_validate(tree)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        problem = f"the terminal UI's settings: {key} {plain(error.errors())}"
        raise ConfigError(problem, where=str(path)) from None
    return tree


def save(settings: TuiSettings, since: TuiSettings, path: Path | None = None) -> None:
    """Remember what has changed. The file's other values stay: an editor or another terminal wrote them. An
    editor's comments and layout do not.

    Args:
        settings: as they are.
        since: as they were when they were read or saved last.
        path: the file, None for the user's.

    Raises:
        AlignError: the file cannot be written (a full disk, a folder without permission), or not be read any
            more, and then it is left alone.
    """
    path = path or settings_path()
    try:
        there = _read(path)
        tree = merged(there, since.model_dump(mode="json"), settings.model_dump(mode="json"))
        if tree != there:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, tomli_w.dumps(tree))
    except ConfigError as error:
        raise AlignError(
            f"the settings cannot be saved: {error.message}",
            where=error.where,
            hint=f"Mend the file; {HOLDS}",
        ) from None
    except OSError as error:
        raise AlignError(
            f"the settings cannot be saved: {error.strerror or error}",
            where=str(path),
            hint=f"Make room or mend the permissions; {HOLDS}",
        ) from None


def merged(there: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A tree in which is also changed what has changed between two others.

    Args:
        there: the tree; tables are gone into, and of a list the new items come first and its own follow.
        before: the older one of the two.
        now: the newer one.
    """
    result = dict(there)
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if key not in now:
            result.pop(key, None)
        elif isinstance(new, dict):
            result[key] = merged(there.get(key, {}), old or {}, new)
        elif isinstance(new, list):
            result[key] = [*new, *(item for item in there.get(key, []) if item not in new)][:RECENT]
        else:
            result[key] = new
    return result


class Keeper:
    """Writes settings in a thread: where a run is saving a checkpoint that takes a while, and no key waits.

    While it writes, of all that comes the last counts.

    Args:
        settings: as they were read.
        tell: called in that thread with what went wrong; it must not wait for the caller of `close`.
    """

    def __init__(self, settings: TuiSettings, tell: Callable[[AlignError], object]) -> None:
        self._kept = settings.model_copy(deep=True)
        self._tell = tell
        self._lock = threading.Lock()
        self._wanted: TuiSettings | None = None
        self._thread: threading.Thread | None = None
        self._problem: AlignError | None = None

    def keep(self, settings: TuiSettings) -> None:
        """Write soon what has changed."""
        with self._lock:
            self._wanted = settings.model_copy(deep=True)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write)
                self._thread.start()

    def close(self, settings: TuiSettings) -> AlignError | None:
        """Write what is not written yet, such as what a full disk refused; returns why that cannot be."""
        self.keep(settings)
        if (thread := self._thread) is not None:
            thread.join(PATIENCE)
            if thread.is_alive():
                return AlignError(
                    "the settings are not saved: the disk does not answer", where=str(settings_path())
                )
        return self._problem

    def _write(self) -> None:
        while (wanted := self._next()) is not None:
            try:
                if wanted != self._kept:
                    save(wanted, self._kept)
            except AlignError as error:
                self._problem = error
                self._tell(error)
            else:
                self._kept, self._problem = wanted, None

    def _next(self) -> TuiSettings | None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                self._thread = None
            return wanted

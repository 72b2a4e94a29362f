"""What the terminal UI remembers from one start to the next: `tui.toml` beside the user's `config.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlx_align.errors import AlignError, ConfigError
from mlx_align.runs.atomic import write_text
from mlx_align.settings import user_config_path
from mlx_align.toml import read_toml
from mlx_align.wording import plain

RECENT = 8
"""How many models and data sets are remembered."""


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
    path = path or settings_path()
    if not path.is_file():
        return TuiSettings()
    tree = read_toml(path)
    try:
        return TuiSettings.model_validate(tree)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(
            f"the terminal UI's settings: {key} {plain(error.errors())}",
            where=str(path),
            hint="Mend the key or remove the file; until then the defaults hold.",
        ) from None


def save(settings: TuiSettings, path: Path | None = None) -> None:
    """Remember.

    Raises:
        AlignError: the file cannot be written (a full disk, a folder without permission).
    """
    path = path or settings_path()
    text = tomli_w.dumps(settings.model_dump(mode="json"))
    try:
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AlignError(
            f"the settings cannot be saved: {reason}",
            where=str(path),
            hint="Make room or mend the permissions; what you changed holds until you leave.",
        ) from None

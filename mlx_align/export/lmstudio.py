"""Where LM Studio looks for models: two levels of folders, `<models>/<publisher>/<model>/`.

In the folder is one GGUF file, or a model in the Hugging Face layout for MLX. LM Studio loads no adapters, so
either is a merged model.
"""

from __future__ import annotations

import re
from pathlib import Path

from mlx_align.errors import UsageError

POINTER = ".lmstudio-home-pointer"
"""A file in the home folder whose text is LM Studio's own folder, written when that was moved."""

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def home() -> Path | None:
    """LM Studio's own folder, found as LM Studio finds it; None if it was never started here."""
    user = Path.home()
    places = [user / ".cache" / "lm-studio", user / ".lmstudio"]
    pointer = user / POINTER
    if pointer.is_file() and (named := pointer.read_text(encoding="utf-8").strip()):
        places = [Path(named)]
    return next((place for place in places if place.is_dir()), None)


def target(publisher: str, model: str, root: Path | None = None) -> Path:
    """The folder that a model belongs in; it need not exist.

    Args:
        publisher: the first level's name: a person's, or an organisation's on the hub.
        model: the second level's name.
        root: LM Studio's models folder, where it is not the usual one ("My Models" shows it).

    Raises:
        UsageError: a name cannot be a folder's, or LM Studio is not here and `root` is not given.
    """
    for level, name in (("publisher", publisher), ("model", model)):
        if not NAME.fullmatch(name):
            raise UsageError(
                f"'{name}' cannot be a {level}'s name in LM Studio",
                hint="Use letters, digits, '.', '-' and '_'.",
            )
    if root is None:
        place = home()
        if place is None:
            raise UsageError(
                "LM Studio was never started here, so there is no folder to put a model in",
                where="~/.lmstudio",
                hint="Start LM Studio once, or name its models folder: --out FOLDER.",
            )
        root = place / "models"
    return root / publisher / model

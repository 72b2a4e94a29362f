"""How more of this program is installed: the command for an installation like the one that is running."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from pathlib import Path

NAME = "mlx-align"
CHECKOUT = Path(__file__).resolve().parents[1]
"""The folder that the package lies in: a checkout, if pyproject.toml lies beside it."""


def command(*extras: str) -> str:
    """What to type to have these extras too, as `pip install -e '.[torch]'` in a checkout.

    Args:
        extras: as in pyproject.toml; none of them: the program itself.
    """
    added = f"[{','.join(extras)}]" if extras else ""
    if (CHECKOUT / "pyproject.toml").is_file():
        folder = "." if _is_here(CHECKOUT) else str(CHECKOUT)
        return f"pip install -e {shlex.quote(folder + added)}"
    origin = _origin()
    return f"pip install {shlex.quote(f'{NAME}{added} @ {origin}' if origin else NAME + added)}"


def _is_here(folder: Path) -> bool:
    try:
        return Path.cwd() == folder
    except OSError:  # the folder that one is in has been deleted
        return False


def _origin() -> str | None:
    """Where pip took the program from, if that was no package index (PEP 610)."""
    try:
        told = metadata.distribution(NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    facts = json.loads(told) if told else {}
    version_control = facts.get("vcs_info", {}).get("vcs")
    url: str | None = facts.get("url")
    return f"{version_control}+{url}" if version_control and url else url

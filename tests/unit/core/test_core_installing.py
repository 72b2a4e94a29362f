"""The command that is told installs into an installation like this one."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import mlx_align
from mlx_align import installing

ROOT = Path(mlx_align.__file__).parents[1]


def test_in_a_checkout_it_is_the_readmes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(installing.CHECKOUT)
    assert installing.command("torch") == "pip install -e '.[torch]'"
    assert installing.command("torch") in (ROOT / "README.md").read_text(encoding="utf-8")


def test_elsewhere_it_names_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(installing, "CHECKOUT", checkout := tmp_path / "my checkout")
    checkout.mkdir()
    (checkout / "pyproject.toml").touch()
    assert shlex.split(installing.command("tui", "serve"))[-1] == f"{checkout}[tui,serve]"


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (None, "mlx-align[tui]"),
        ({"url": "file:///x/mlx_align-1.whl", "archive_info": {}}, "mlx-align[tui] @ file:///x/mlx_align-1.whl"),
        ({"url": "https://h/r", "vcs_info": {"vcs": "git"}}, "mlx-align[tui] @ git+https://h/r"),
    ],
)  # fmt: skip
def test_from_a_wheel_it_names_where_that_came_from(
    told: dict[str, object] | None, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            return None if told is None else json.dumps(told)

    monkeypatch.setattr(installing, "CHECKOUT", tmp_path)
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed())
    assert shlex.split(installing.command("tui")) == ["pip", "install", what]
    assert shlex.split(installing.command())[-1] == what.replace("[tui]", "")


def test_nothing_else_says_what_to_type() -> None:
    """One function knows; and it is asked for extras that there are."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for folder in ("mlx_align", "apps"):
        for file in (ROOT / folder).rglob("*.py"):
            source = file.read_text(encoding="utf-8")
            assert file.name == "installing.py" or not re.search(r"install[^\n]*mlx-align\[", source), file
            for asked in re.findall(r"installing\.command\(([^)]*)\)", source):
                assert set(re.findall(r"[a-z]\w+", asked)) - {"extra"} <= set(extras), file

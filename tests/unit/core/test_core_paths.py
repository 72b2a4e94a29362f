"""Paths as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_align.api import prepare
from mlx_align.config import RunConfig
from mlx_align.engine.data import data_path
from mlx_align.errors import AlignError, ConfigError
from mlx_align.paths import typed, typed_new
from mlx_align.rewards.python import absolute
from mlx_align.settings import Resolved

NOBODY = "~nobody-of-this-name/x"


def test_a_home_is_put_in_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert typed("~/x") == tmp_path / "x"
    assert typed("a/~/x") == Path("a/~/x")
    assert typed(NOBODY) == Path(NOBODY)


def test_the_home_of_nobody_is_a_path_at_which_nothing_is() -> None:
    config = RunConfig.model_validate({"data": {"path": NOBODY}})
    assert data_path(config) == Path(NOBODY)
    assert absolute(f"{NOBODY}.py:f") == f"{Path.cwd() / NOBODY}.py:f"
    for section, key, said in (("data", "path", "no such file"), ("adapter", "start", "there is no adapter")):
        wrong = RunConfig.model_validate({section: {key: NOBODY}})
        with pytest.raises(AlignError, match=said):
            prepare(Resolved(wrong, {}))


def test_nothing_is_made_in_the_home_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert typed_new("~/x", "--out") == tmp_path / "x"
    for key in ("dir", "cache"):
        wrong = RunConfig.model_validate({"runs": {key: NOBODY}})
        with pytest.raises(ConfigError, match="nobody's home is known as '~nobody-of-this-name'") as caught:
            prepare(Resolved(wrong, {}))
        assert caught.value.where == f"runs.{key} = {NOBODY}"
    assert not list(tmp_path.iterdir())

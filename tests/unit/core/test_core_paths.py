"""Paths as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_align.api import prepare
from mlx_align.config import RunConfig
from mlx_align.engine.data import data_path
from mlx_align.errors import AlignError
from mlx_align.paths import typed
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

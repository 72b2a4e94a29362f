"""What is not a run is never taken for one: it could be removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_align.errors import UsageError
from mlx_align.runs import find, list_runs


@pytest.mark.parametrize("name", [".", "./", "", "config", "last"])
def test_a_folder_with_a_config_of_another_program(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "config.toml").write_text('title = "my site"\n', encoding="utf-8")
    monkeypatch.chdir(site)
    with pytest.raises(UsageError):
        find(tmp_path, name)
    assert list_runs(tmp_path) == []


def test_a_part_of_a_name_is_not_exact(tmp_path: Path) -> None:
    run = tmp_path / "20260102-030405-orpo-tiny-chat"
    run.mkdir()
    for name in ("config.toml", "env.json", "state.json"):
        (run / name).write_text("", encoding="utf-8")
    assert find(tmp_path, "030405").path == run
    with pytest.raises(UsageError):
        find(tmp_path, "030405", exact=True)
    assert find(tmp_path, run.name, exact=True).path == run
    assert find(tmp_path, "last", exact=True).path == run
    with pytest.raises(UsageError):
        find(tmp_path, "", exact=True)

"""Files and folders are there whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from mlx_align.runs.atomic import new_folder, replace_folder, write_json, write_text


class PowerCutError(BaseException):
    """Not even an Exception, as KeyboardInterrupt is not."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_replaces_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "one")
    write_text(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    assert names(tmp_path) == ["a.txt"], "a temporary file was left behind"


def test_a_failed_write_leaves_the_old_text_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_json_has_no_word_for_infinity(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, None]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("inf")})
    assert json.loads(path.read_text()) == {"a": [1, None]}


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "new"
    with new_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("x")
        assert not path.exists()
        assert folder.name.startswith("."), "a folder that is being filled is hidden"
    assert (path / "sub" / "a").read_text() == "x"
    assert names(path.parent) == ["new"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize("error", [ValueError, PowerCutError])
def test_an_exception_inside_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fill() -> None:
        with new_folder(tmp_path / "new") as folder:
            (folder / "half").write_text("x")
            raise error

    with pytest.raises(error):
        fill()
    assert names(tmp_path) == []


def test_a_new_folder_does_not_replace_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError), new_folder(tmp_path / "there"):
        raise AssertionError("the block must not be entered")
    assert names(tmp_path) == ["there"]


def test_a_folder_is_replaced_by_a_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, text in ((source, "new"), (target, "old")):
        folder.mkdir()
        (folder / f"{text}.txt").write_text(text)
    for _ in range(2):
        replace_folder(source, target)
        assert names(target) == ["new.txt"]
    assert names(tmp_path) == ["source", "target"]
    assert (source / "new.txt").exists()


def test_a_failed_replacement_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "nowhere", target)
    assert names(tmp_path) == ["target"]
    assert names(target) == ["old.txt"]


def test_leftovers_of_a_killed_replacement_do_no_harm(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, tmp_path / ".target-old", tmp_path / ".target-new"):
        folder.mkdir()
        (folder / folder.name).write_text("x")
    replace_folder(source, target)
    assert names(target) == ["source"]
    assert names(tmp_path) == ["source", "target"]

"""A model comes where LM Studio looks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_align.errors import UsageError
from mlx_align.export import lmstudio


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_its_usual_folder(home: Path) -> None:
    (home / ".lmstudio").mkdir()
    assert lmstudio.target("me", "tiny-orpo") == home / ".lmstudio" / "models" / "me" / "tiny-orpo"
    assert not (home / ".lmstudio" / "models").exists()


def test_the_older_folder_is_still_used_where_it_is(home: Path) -> None:
    (home / ".lmstudio").mkdir()
    (home / ".cache" / "lm-studio").mkdir(parents=True)
    assert lmstudio.target("me", "m") == home / ".cache" / "lm-studio" / "models" / "me" / "m"


def test_the_pointer_decides(home: Path) -> None:
    elsewhere = home / "disk" / "lm studio"
    elsewhere.mkdir(parents=True)
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio-home-pointer").write_text(f"{elsewhere}\n")
    assert lmstudio.home() == elsewhere
    assert lmstudio.target("me", "m") == elsewhere / "models" / "me" / "m"


def test_a_pointer_to_nowhere_is_no_folder(home: Path) -> None:
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio-home-pointer").write_text(str(home / "unplugged"))
    assert lmstudio.home() is None


def test_an_empty_pointer_says_nothing(home: Path) -> None:
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio-home-pointer").write_text("\n")
    assert lmstudio.home() == home / ".lmstudio"


def test_where_lm_studio_was_never_started(home: Path) -> None:
    assert lmstudio.home() is None
    with pytest.raises(UsageError, match="never started here") as caught:
        lmstudio.target("me", "m")
    assert "models folder" in str(caught.value.hint)
    assert lmstudio.target("me", "m", home / "models") == home / "models" / "me" / "m"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", "a\n", "~"])
def test_names_that_are_no_folders(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match="publisher's name"):
        lmstudio.target(name, "m", home)
    with pytest.raises(UsageError, match="model's name"):
        lmstudio.target("me", name, home)

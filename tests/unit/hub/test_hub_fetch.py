"""A model from the hub: fetched once without code or pickles, then found without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub, Repo, reached
from huggingface_hub import constants

from mlx_align import embedded
from mlx_align.errors import AlignError, UsageError
from mlx_align.hub import resolve_model

NAME = "org/tiny"
DANGEROUS = {
    "modeling.py": b"raise SystemExit('this must never run')",
    "pytorch_model.bin": b"a pickle",
    "consolidated.pth": b"a pickle",
    "training_args.pt": b"a pickle",
    "README.md": b"# Tiny",
    "tf_model.h5": b"x",
}


def model_files() -> dict[str, bytes]:
    small = ("config.json", "tokenizer_config.json", "chat_template.jinja")
    folder = embedded.model_folder()
    weights = {"model.safetensors": b"weights", "tokenizer.model": b"pieces", "merges.txt": b"a b"}
    return {**{name: (folder / name).read_bytes() for name in small}, **weights}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of our own, an empty cache, and no token."""
    repos = {
        NAME: Repo({**model_files(), **DANGEROUS}),
        "org/gated": Repo(model_files(), gated=True),
        "org/pickled": Repo({"config.json": b"{}", "pytorch_model.bin": b"a pickle"}),
    }
    with FakeHub(repos) as server, reached(server, tmp_path, monkeypatch):
        yield server


def test_it_is_fetched_and_its_commit_noted(hub: FakeHub) -> None:
    source = resolve_model(NAME)
    assert (source.name, source.commit) == (NAME, COMMIT)
    assert sorted(path.name for path in source.folder.iterdir()) == sorted(model_files())
    for name, content in model_files().items():
        assert (source.folder / name).read_bytes() == content


def test_neither_code_nor_pickles_are_even_asked_for(hub: FakeHub) -> None:
    resolve_model(NAME)
    assert sorted(hub.sent) == sorted(model_files())


def test_the_second_time_needs_no_network(hub: FakeHub) -> None:
    first = resolve_model(NAME)
    hub.sent.clear()
    assert resolve_model(NAME) == first
    assert hub.sent == [], "nothing is fetched twice"
    hub.shut_down()
    assert resolve_model(NAME) == first
    assert resolve_model(NAME, COMMIT) == first


def test_the_second_time_works_in_offline_mode(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve_model(NAME)
    hub.shut_down()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model(NAME) == first


def test_a_revision_can_be_asked_for(hub: FakeHub) -> None:
    assert resolve_model(NAME, COMMIT).commit == COMMIT
    with pytest.raises(UsageError, match="has no revision 'v9'") as caught:
        resolve_model(NAME, "v9")
    assert caught.value.where == "model.revision"


def test_a_model_that_is_not_there(hub: FakeHub) -> None:
    with pytest.raises(UsageError, match="the hub has no model 'org/nothing'") as caught:
        resolve_model("org/nothing")
    assert caught.value.hint is not None
    assert "spelling" in caught.value.hint


def test_a_model_that_must_be_asked_for(hub: FakeHub) -> None:
    with pytest.raises(UsageError, match="access to 'org/gated' must be asked for") as caught:
        resolve_model("org/gated")
    assert caught.value.hint is not None
    assert "hf auth login" in caught.value.hint


def test_a_model_of_pickles_only_is_not_one_we_can_use(hub: FakeHub) -> None:
    with pytest.raises(UsageError, match="not a model") as caught:
        resolve_model("org/pickled")
    assert caught.value.hint is not None or caught.value.where is not None
    assert hub.sent == ["config.json"]


def test_never_seen_and_no_network(hub: FakeHub) -> None:
    hub.shut_down()
    with pytest.raises(AlignError, match="hub cannot be reached") as caught:
        resolve_model(NAME)
    assert type(caught.value) is AlignError
    assert caught.value.exit_code == 1
    assert caught.value.hint is not None
    assert "works offline" in caught.value.hint


def test_never_seen_in_offline_mode(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AlignError, match="not in the cache"):
        resolve_model(NAME)
    assert hub.sent == []


def test_a_half_fetched_model_is_not_taken_for_a_whole_one(hub: FakeHub) -> None:
    source = resolve_model(NAME)
    (source.folder / "model.safetensors").unlink()
    hub.shut_down()
    with pytest.raises(AlignError, match="hub cannot be reached"):
        resolve_model(NAME)


def test_a_local_folder_wins_over_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / NAME  # tests run in tmp_path
    folder.mkdir(parents=True)
    for name, content in model_files().items():
        (folder / name).write_bytes(content)
    source = resolve_model(NAME)
    assert (source.folder, source.commit) == (Path(NAME), None)
    assert hub.sent == []

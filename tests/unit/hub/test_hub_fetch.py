"""A model from the hub: fetched once without code or pickles, then found without a network."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from fake_hub import COMMIT, FakeHub, Repo, reached
from huggingface_hub import constants

from mlx_align import embedded
from mlx_align.errors import AlignError, DataError, UsageError
from mlx_align.hub import is_missing, parcel, resolve_model
from mlx_align.weights import INDEX

NAME = "org/tiny"
DANGEROUS = {
    "modeling.py": b"raise SystemExit('this must never run')",
    "pytorch_model.bin": b"a pickle",
    "consolidated.pth": b"a pickle",
    "training_args.pt": b"a pickle",
    "README.md": b"# Tiny",
    "tf_model.h5": b"x",
}

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
TWICE = {
    "consolidated.safetensors": b"weights once more",
    "original/model.safetensors": b"and again",
    "original/params.json": b"{}",
    "onnx/config.json": b"{}",
}


def model_files() -> dict[str, bytes]:
    small = ("config.json", "tokenizer_config.json", "chat_template.jinja")
    folder = embedded.model_folder()
    weights = {"model.safetensors": b"weights", "tokenizer.model": b"pieces", "merges.txt": b"a b"}
    return {**{name: (folder / name).read_bytes() for name in small}, **weights}


def sharded_files() -> dict[str, bytes]:
    files = {**model_files(), "additional_chat_templates/tools.jinja": b"{{ messages }}"}
    del files["model.safetensors"]
    index = {"weight_map": dict(zip("ab", SHARDS, strict=True))}
    return {**files, INDEX: json.dumps(index).encode(), **{file: file.encode() for file in SHARDS}}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of our own, an empty cache, and no token."""
    repos = {
        NAME: Repo({**model_files(), **DANGEROUS}),
        "org/twice": Repo({**sharded_files(), **TWICE}),
        "org/gated": Repo(model_files(), gated=True),
        "org/closed": Repo(sharded_files(), closed=True),
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


def test_a_token_without_the_right_to_read(hub: FakeHub) -> None:
    with pytest.raises(UsageError, match=r"the hub does not let you have 'org/closed': .*403") as caught:
        resolve_model("org/closed")
    assert "Give your token the right to read it" in str(caught.value.hint)
    assert "hf auth login" in str(caught.value.hint)


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


def test_weights_that_nothing_reads_are_not_fetched(hub: FakeHub) -> None:
    folder = resolve_model("org/twice").folder
    assert sorted(hub.sent) == sorted(sharded_files())
    assert (folder / "additional_chat_templates" / "tools.jinja").is_file()
    assert not is_missing("org/twice")
    assert not parcel("org/twice").files
    hub.shut_down()
    assert resolve_model("org/twice").folder == folder, "what was not fetched is not missed"


@pytest.mark.parametrize("name", [*SHARDS, "config.json"])
@pytest.mark.parametrize("known", [True, False], ids=["with its list", "without its list"])
def test_a_part_of_a_model_is_not_taken_for_all_of_it(name: str, known: bool, hub: FakeHub) -> None:
    folder = resolve_model("org/twice").folder
    (folder / name).unlink()
    if not known:  # as other programs leave it
        shutil.rmtree(folder.parent.parent / "trees", ignore_errors=True)
    assert is_missing("org/twice")
    hub.down = True
    with pytest.raises(AlignError, match=r"not whole in the cache and the hub failed: .*500") as caught:
        resolve_model("org/twice")
    assert "try again later" in str(caught.value).lower()
    hub.down = False
    assert resolve_model("org/twice").folder == folder
    assert (folder / name).is_file()


def test_an_index_that_cannot_be_used(hub: FakeHub) -> None:
    hub.repos["org/twice"].files[INDEX] = b"{}"
    with pytest.raises(DataError, match="index cannot be used") as caught:
        resolve_model("org/twice")
    assert caught.value.where == f"org/twice/{INDEX}"


@pytest.mark.parametrize("indexed", [True, False], ids=["an index", "their names"])
def test_weights_of_which_the_hub_lacks_a_part(indexed: bool, hub: FakeHub) -> None:
    files = hub.repos["org/twice"].files
    del files[SHARDS[1]]
    if not indexed:
        del files[INDEX]
    for ask in (resolve_model, parcel):
        with pytest.raises(DataError, match=f"the repository has no '{SHARDS[1]}'") as caught:
            ask("org/twice")
        assert caught.value.where == "org/twice"
    assert set(hub.sent) <= {INDEX}


def test_parts_without_an_index_are_not_taken_for_all_of_them(hub: FakeHub) -> None:
    del hub.repos["org/twice"].files[INDEX]
    folder = resolve_model("org/twice").folder
    assert not is_missing("org/twice")
    (folder / SHARDS[1]).unlink()
    shutil.rmtree(folder.parent.parent / "trees", ignore_errors=True)
    assert is_missing("org/twice")


def test_how_much_is_fetched_is_said_first(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    resolve_model(NAME)
    line, *_ = capsys.readouterr().err.splitlines()  # and then the library's progress
    total = sum(map(len, model_files().values()))
    assert line == (
        f"fetching '{NAME}' from the hub: {total / 1000:.0f} KB in 6 files, into {constants.HF_HUB_CACHE}"
    )
    resolve_model(NAME)
    assert "from the hub" not in capsys.readouterr().err, "nothing is fetched"


def test_a_disk_without_the_room_is_told_before_anything_comes(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(AlignError, match=f"no room for .* bytes of '{NAME}': 1,000 are free") as caught:
        resolve_model(NAME)
    assert (type(caught.value), caught.value.where) == (AlignError, str(constants.HF_HUB_CACHE))
    assert "HF_HUB_CACHE" in str(caught.value.hint)
    assert hub.sent == []


def changed(repo: Repo) -> None:
    """A commit that changes one small file, as an owner makes it."""
    repo.files["tokenizer_config.json"] += b"\n"
    repo.commit = "f" * 40


def test_of_a_new_commit_only_what_it_changes_is_fetched(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resolve_model(NAME)
    changed(hub.repos[NAME])
    size = len(hub.repos[NAME].files["tokenizer_config.json"])
    found = parcel(NAME)
    assert (found.files, found.size) == (("tokenizer_config.json",), size)
    hub.sent.clear()
    capsys.readouterr()
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=size))
    assert resolve_model(NAME).commit == hub.repos[NAME].commit
    assert hub.sent == ["tokenizer_config.json"]
    assert " in 1 file, into" in capsys.readouterr().err


def test_without_the_room_for_a_new_commit_the_one_in_the_cache_is_taken(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = resolve_model(NAME)
    changed(hub.repos[NAME])
    capsys.readouterr()
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    assert resolve_model(NAME) == first
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("there is no room for ")
    assert line.endswith(f": '{NAME}' is taken from the cache")


def test_a_cache_that_is_only_read_still_has_its_models(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = resolve_model(NAME)
    changed(hub.repos[NAME])
    refuse_to_write(os_error(errno.EROFS), monkeypatch)
    capsys.readouterr()
    assert resolve_model(NAME) == first
    *_, line = capsys.readouterr().err.splitlines()
    assert line == (
        f"the cache of models cannot be written: Read-only file system: '{NAME}' is taken from the cache"
    )


def test_a_token_that_cannot_be_read(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_TOKEN_PATH", str(token))
        with pytest.raises(AlignError, match="the hub's token cannot be read: Is a directory") as caught:
            resolve_model(NAME)
    assert caught.value.where == str(token)
    assert "hf auth login" in str(caught.value.hint)
    first = resolve_model(NAME)
    capsys.readouterr()
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(token))
    assert resolve_model(NAME) == first
    assert "the hub's token cannot be read" in capsys.readouterr().err


def test_a_hub_that_fails_is_told_where_the_cache_does(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    first = resolve_model(NAME)
    capsys.readouterr()
    hub.down = True
    assert resolve_model(NAME) == first
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the hub cannot be used (Server error '500")
    assert line.endswith(f": '{NAME}' is taken from the cache")


def test_offline_mode_is_no_failure(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = resolve_model(NAME)
    capsys.readouterr()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model(NAME) == first
    assert capsys.readouterr().err == ""


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def refuse_to_write(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's library fail where it would write into the cache."""
    look = huggingface_hub.snapshot_download

    def fail(*args: Any, local_files_only: bool = False, **options: Any) -> Any:
        if not local_files_only:
            raise failure
        return look(*args, local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


@pytest.mark.parametrize(
    ("failure", "said", "todo"),
    [
        (os_error(errno.ENOSPC), "no room left", "Make room"),
        (RuntimeError("IO Error: No space left on device (os error 28)"), "no room left", "Make room"),
        (os_error(errno.EACCES), "cannot be written: Permission denied", "Make it writable"),
        (os_error(errno.EROFS), "cannot be written: Read-only file system", "Make it writable"),
    ],
    ids=["full", "full, told by the transport", "not ours", "read-only"],
)
def test_what_is_wrong_with_the_disk_is_not_told_of_the_hub(
    failure: Exception, said: str, todo: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_write(failure, monkeypatch)
    with pytest.raises(AlignError, match=said) as caught:
        resolve_model(NAME)
    assert caught.value.where == str(constants.HF_HUB_CACHE)
    assert todo in str(caught.value.hint)
    assert "hub cannot" not in str(caught.value)


def test_a_cache_that_cannot_be_made(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AlignError, match="cache of models cannot be written: Not a directory") as caught:
        resolve_model(NAME)
    assert str(caught.value.where).startswith(str(tmp_path / "file"))


def test_a_local_folder_wins_over_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / NAME  # tests run in tmp_path
    folder.mkdir(parents=True)
    for name, content in model_files().items():
        (folder / name).write_bytes(content)
    source = resolve_model(NAME)
    assert (source.folder, source.commit) == (Path(NAME), None)
    assert hub.sent == []

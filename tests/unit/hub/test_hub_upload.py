"""An upload to a hub of our own: private, in one commit, and no token in any message."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, Repo, reached
from huggingface_hub import constants

from mlx_align.errors import AlignError, UsageError
from mlx_align.export.hub_upload import check_access, upload

# huggingface_hub gives httpx a file in a way that httpx no longer wants.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")

TOKEN = "hf_SecretSecretSecret"
FILES = {"README.md": b"# Mine", "config.json": b"{}", "model.safetensors": b"w" * 2000, "sub/a.txt": b"a"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub where the token belongs to "me"; "me/public" is there already, and so is "other/model"."""
    repos = {"me/public": Repo({}), "other/model": Repo({})}
    with FakeHub(repos, writers={TOKEN: "me"}) as server, reached(server, tmp_path, monkeypatch):
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "export"
    for name, content in {**FILES, ".hidden": b"x", "sub/.DS_Store": b"x"}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def refusal(folder: Path, repo: str, token: str | None = TOKEN, private: bool = True) -> AlignError:
    with pytest.raises(AlignError) as caught:
        upload(folder, repo, token=token, private=private)
    told = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in told
    return caught.value


def test_a_new_repository_is_private_and_has_the_files(hub: FakeHub, folder: Path) -> None:
    address = upload(folder, "me/mine", token=TOKEN, message="Step 50")
    assert address == f"{hub.url}/me/mine"
    assert hub.repos["me/mine"].private
    assert hub.repos["me/mine"].files == FILES
    assert hub.commits == [("me/mine", "Step 50")]


def test_large_files_go_the_way_of_large_files(hub: FakeHub, folder: Path) -> None:
    upload(folder, "me/mine", token=TOKEN)
    assert hub.large == [b"w" * 2000]


def test_public_where_it_is_asked_for(hub: FakeHub, folder: Path) -> None:
    upload(folder, "me/mine", token=TOKEN, private=False)
    assert not hub.repos["me/mine"].private


def test_again_into_the_same_one(hub: FakeHub, folder: Path) -> None:
    upload(folder, "me/mine", token=TOKEN)
    (folder / "config.json").write_bytes(b'{"a": 1}')
    upload(folder, "me/mine", token=TOKEN)
    assert hub.repos["me/mine"].files == FILES | {"config.json": b'{"a": 1}'}
    assert hub.repos["me/mine"].private


def test_nothing_private_goes_into_a_public_repository(hub: FakeHub, folder: Path) -> None:
    error = refusal(folder, "me/public")
    assert isinstance(error, UsageError)
    assert "--public" in str(error.hint)
    assert hub.repos["me/public"].files == {}
    upload(folder, "me/public", token=TOKEN, private=False)
    assert hub.repos["me/public"].files == FILES


def test_who_is_not_logged_in(hub: FakeHub, folder: Path) -> None:
    error = refusal(folder, "me/mine", token=None)
    assert error.message == "the hub does not know who you are"
    assert "hf auth login" in str(error.hint)


def test_somebody_elses_name(hub: FakeHub, folder: Path) -> None:
    error = refusal(folder, "other/mine")
    assert error.message == "the hub does not let you write there"
    assert "'other'" in str(error.hint)


def test_somebody_elses_repository(hub: FakeHub, folder: Path) -> None:
    """The hub lets one see it, so it is the writing that is refused."""
    assert refusal(folder, "other/model", private=False).message == "the hub does not let you write there"
    assert hub.repos["other/model"].files == {}


def test_a_repository_that_goes_away_meanwhile(hub: FakeHub, folder: Path) -> None:
    hub.vanishing.add("me/mine")
    assert refusal(folder, "me/mine").message.startswith("the hub has no such place")


def test_a_hub_that_has_trouble(hub: FakeHub, folder: Path) -> None:
    hub.trouble = f"no space for {TOKEN}"
    error = refusal(folder, "me/mine")
    assert error.message == "the hub refused: no space for hf_..."
    assert error.where == "me/mine"


def test_a_token_that_cannot_be_sent(hub: FakeHub, folder: Path) -> None:
    """The transport shows what it was to send."""
    assert "Bearer hf_..." in refusal(folder, "me/mine", token=f"{TOKEN}\n").message


def test_no_network(hub: FakeHub, folder: Path) -> None:
    hub.shut_down()
    error = refusal(folder, "me/mine")
    assert "talking to the hub failed" in error.message
    assert "network" in str(error.hint)


def test_offline_mode(hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(folder, "me/mine").message


def refused_before(repo: str, token: str | None = TOKEN, private: bool = True) -> AlignError:
    with pytest.raises(AlignError) as caught:
        check_access(repo, token=token, private=private)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    return caught.value


@pytest.mark.parametrize("token", [None, "hf_Unknown"])
def test_asked_before_who_is_not_logged_in(hub: FakeHub, token: str | None) -> None:
    error = refused_before("me/mine", token)
    assert error.message == "the hub does not know who you are"
    assert "hf auth login" in str(error.hint)


@pytest.mark.parametrize(("repo", "role"), [("other/mine", "write"), ("me/mine", "read")])
def test_asked_before_who_may_not_write(hub: FakeHub, repo: str, role: str) -> None:
    hub.role = role
    assert refused_before(repo).message == "the hub does not let you write there"


def test_asked_before_nothing_is_made(hub: FakeHub) -> None:
    before = dict(hub.repos)
    for repo in ("me/mine", "Me/mine", "me-lab/mine"):
        check_access(repo, token=TOKEN)
    check_access("me/public", token=TOKEN, private=False)
    hub.role = "fineGrained"  # whose permissions it does not tell
    check_access("other/mine", token=TOKEN)
    assert hub.repos == before


def test_asked_before_a_public_repository_is_refused(hub: FakeHub) -> None:
    assert "--public" in str(refused_before("me/public").hint)
    hub.repos["me/private"] = Repo({}, private=True)
    check_access("me/private", token=TOKEN)


@pytest.mark.parametrize("repo", ["me/my--model", "me/..", "me/mine.git"])
@pytest.mark.parametrize("private", [True, False])
def test_asked_before_a_name_that_the_hub_forbids(hub: FakeHub, repo: str, private: bool) -> None:
    error = refused_before(repo, private=private)
    assert isinstance(error, UsageError)
    assert error.message == f"'{repo}' is not a name that the hub allows"


def test_asked_before_without_network(hub: FakeHub) -> None:
    hub.shut_down()
    assert "network" in str(refused_before("me/mine").hint)


@pytest.mark.parametrize("repo", ["mine", "a/b/c", "../mine", "me/", "me/a b", "me/a--b", "me/-"])
def test_a_name_that_is_none(hub: FakeHub, folder: Path, repo: str) -> None:
    assert isinstance(refusal(folder, repo), UsageError)
    assert hub.commits == []


def test_a_folder_that_is_not_there(hub: FakeHub, tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "none", "me/mine").message

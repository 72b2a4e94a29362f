"""An export on the Hugging Face hub: a repository, private unless said otherwise, and one commit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_align.errors import AlignError, UsageError
from mlx_align.hub import HUB_ID
from mlx_align.hub.reaching import answer

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TOKEN = re.compile(r"hf_\w+")
_LOG_IN = "Log in with `hf auth login`, with a token that may write."


def check_access(repo: str, *, private: bool = True, token: str | None = None) -> None:
    """Ask the hub who one is and whether a repository may be uploaded to; nothing is made or changed there.

    A token with permissions of its own (fine-grained) says little of them: there the upload itself will tell.

    Args:
        repo: "owner/name"; it need not be there.
        private: as in `upload`.
        token: as in `upload`.

    Raises:
        UsageError: the name is none, or the repository is public and `private` is wanted.
        AlignError: one is not logged in, may not write there, or the hub cannot be reached.
    """
    check_name(repo)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _told(repo, token):
        _check_writer(api.whoami(), repo)
        there = api.repo_exists(repo)  # which also says whether it may be called so
        if private and there:
            _refuse_public(api, repo)


def upload(
    folder: Path,
    repo: str,
    *,
    private: bool = True,
    token: str | None = None,
    message: str = "Upload by mlx-align",
) -> str:
    """Put a folder's files into a repository, which is made if it is not there.

    Args:
        folder: what is uploaded; files whose names begin with a dot stay here.
        repo: "owner/name".
        private: nobody else sees it. A repository that is public already is then not touched.
        token: a token of the hub; None: the one that `hf auth login` keeps.
        message: the commit's.

    Returns:
        The repository's address.

    Raises:
        UsageError: the name is none, or the repository is public and `private` is wanted.
        AlignError: the hub refuses, or cannot be reached. No message has a token in it.
    """
    check_name(repo)
    if not folder.is_dir():
        raise UsageError("there is no such folder to upload", where=str(folder))
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _told(repo, token):
        address = api.create_repo(repo, private=private, exist_ok=True)
        if private:
            _refuse_public(api, repo)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=message, ignore_patterns=[".*", "*/.*"]
        )
    return str(address)


def check_name(repo: str) -> None:
    """See that a repository may be called so.

    Raises:
        UsageError: it may not.
    """
    if not HUB_ID.fullmatch(repo):
        raise UsageError(f"'{repo}' is not a name on the hub", hint="Give owner/name: --repo me/my-model")


def _check_writer(me: dict[str, Any], repo: str) -> None:
    """See that a token may write under an owner's name, as far as the hub's answer about it says.

    Raises:
        AlignError: it may not.
    """
    owner = repo.split("/")[0].casefold()
    role = ((me.get("auth") or {}).get("accessToken") or {}).get("role")
    names = {str(one["name"]).casefold() for one in (me, *me.get("orgs", ()))}
    if role == "read" or (role == "write" and owner not in names):
        raise _no_writer(repo)


def _no_writer(repo: str) -> AlignError:
    return AlignError(
        "the hub does not let you write there",
        where=repo,
        hint=f"Is '{repo.split('/')[0]}' you, or an organisation of yours? {_LOG_IN}",
    )


def _refuse_public(api: HfApi, repo: str) -> None:
    """See that a repository, which is there, is private.

    Raises:
        UsageError: everybody may see it.
    """
    if not api.model_info(repo).private:
        raise UsageError(
            f"'{repo}' is there already, and public",
            hint="Choose another name, or say that it may be public: --public",
        )


@contextmanager
def _told(repo: str, token: str | None) -> Iterator[None]:
    """What the hub or the way to it raises in the block, as an error for a person."""
    try:
        yield
    except AlignError:
        raise
    except Exception as error:  # the hub's own, the transport's, or what either raised while uploading
        raise _refusal(error, repo, token) from None


def _refusal(error: Exception, repo: str, token: str | None) -> AlignError:
    """What the hub's answer means for a person."""
    from huggingface_hub import errors

    status, _ = answer(error)
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"'{repo}' is not a name that the hub allows")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return AlignError("the hub is switched off by HF_HUB_OFFLINE", hint="Unset it, and try again.")
    if status == 401 or isinstance(error, errors.LocalTokenNotFoundError):
        return AlignError("the hub does not know who you are", where=repo, hint=_LOG_IN)
    if status == 403:
        return _no_writer(repo)
    if status == 404:
        return AlignError(
            "the hub has no such place, or hides it from you", where=repo, hint=f"Check the name. {_LOG_IN}"
        )
    told = getattr(error, "server_message", None) or str(error)
    said = (told.strip().splitlines() or [type(error).__name__])[0]
    said = _TOKEN.sub("hf_...", said.replace(token, "hf_...") if token else said)
    if status is not None:
        return AlignError(f"the hub refused: {said}", where=repo, hint="Try again later.")
    return AlignError(f"talking to the hub failed: {said}", where=repo, hint="Check the network.")

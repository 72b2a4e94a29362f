"""An export on the Hugging Face hub: a repository, private unless said otherwise, and one commit."""

from __future__ import annotations

import re
from pathlib import Path

from mlx_align.errors import AlignError, UsageError
from mlx_align.hub import HUB_ID

_TOKEN = re.compile(r"hf_\w+")
_LOG_IN = "Log in with `hf auth login`, with a token that may write."


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
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UsageError(
                f"'{repo}' is there already, and public",
                hint="Choose another name, or say that it may be public: --public",
            )
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=message, ignore_patterns=[".*", "*/.*"]
        )
    except AlignError:
        raise
    except Exception as error:  # the hub's own, the transport's, or what either raised while uploading
        raise _refusal(error, repo, token) from None
    return str(address)


def check_name(repo: str) -> None:
    """See that a repository may be called so.

    Raises:
        UsageError: it may not.
    """
    if not HUB_ID.fullmatch(repo):
        raise UsageError(f"'{repo}' is not a name on the hub", hint="Give owner/name: --repo me/my-model")


def _refusal(error: Exception, repo: str, token: str | None) -> AlignError:
    """What the hub's answer means for a person."""
    from huggingface_hub import errors

    status = _status(error)
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"'{repo}' is not a name that the hub allows")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return AlignError("the hub is switched off by HF_HUB_OFFLINE", hint="Unset it, and try again.")
    if status == 401:
        return AlignError("the hub does not know who you are", where=repo, hint=_LOG_IN)
    if status == 403:
        return AlignError(
            "the hub does not let you write there",
            where=repo,
            hint=f"Is '{repo.split('/')[0]}' you, or an organisation of yours? {_LOG_IN}",
        )
    if status == 404:
        return AlignError(
            "the hub has no such place, or hides it from you", where=repo, hint=f"Check the name. {_LOG_IN}"
        )
    told = getattr(error, "server_message", None) or str(error)
    said = (told.strip().splitlines() or [type(error).__name__])[0]
    said = _TOKEN.sub("hf_...", said.replace(token, "hf_...") if token else said)
    if status is not None:
        return AlignError(f"the hub refused the upload: {said}", where=repo, hint="Try again later.")
    return AlignError(
        f"the upload failed: {said}",
        where=repo,
        hint="Check the network; what was already uploaded is not sent again.",
    )


def _status(error: BaseException | None) -> int | None:
    """The status of the answer that an error, or one that it came from, is about."""
    while error is not None:
        status: int | None = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return status
        error = error.__cause__
    return None

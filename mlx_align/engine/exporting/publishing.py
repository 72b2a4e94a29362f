"""What is particular about a target's place: LM Studio's folder, Ollama's store, a repository on the hub."""

from __future__ import annotations

from pathlib import Path

from mlx_align.engine.exporting import unsent
from mlx_align.engine.exporting.options import Options
from mlx_align.engine.exporting.origin import Origin
from mlx_align.engine.exporting.verification import Verification
from mlx_align.engine.exporting.writers import Written
from mlx_align.errors import AlignError, UsageError
from mlx_align.export import card, hub_upload, lmstudio, ollama

PUBLISHER = "mlx-align"
"""LM Studio's folders have two levels; a model of one's own has no publisher."""


def place(target: str, single: bool, origin: Origin, out: Path | None, options: Options) -> Path:
    """The folder or file that an export will be.

    Args:
        target: the target's name.
        single: whether it is one file.
        origin: what is exported.
        out: what was asked for; for a file also a folder to put it in, for LM Studio its models folder.
        options: how it is exported.

    Raises:
        UsageError: the target needs an option that is missing, or refuses the name.
    """
    if target == "hub" and options.repo is None:
        raise UsageError("the hub needs a name for the repository", hint="Give --repo owner/name.")
    if target == "hub":
        hub_upload.check_name(str(options.repo))
    if target == "ollama" and options.name is not None:
        ollama.create_command(options.name)
    for name, value in (options.parameters or {}).items():
        ollama.parameter(name, value)
    if single:
        if out is not None and out.suffix == ".gguf":
            return out
        return (out or origin.run.path / "exports") / file_name(target, origin, options)
    if target == "lmstudio":
        publisher, _, model = (options.repo or f"{PUBLISHER}/{origin.name}").partition("/")
        return lmstudio.target(publisher, model, out)
    name = _hub_name(options) if target == "hub" else target
    return out or origin.run.path / "exports" / name


def _hub_name(options: Options) -> str:
    """The folder of what goes to a repository; no name on the hub has "--" in it, so no two share one."""
    parts = ["hub", *str(options.repo).split("/"), str(options.format), *filter(None, [options.type])]
    return "--".join(parts)


def check(target: str, options: Options) -> None:
    """See, before anything is made, that the hub will take what is meant for it.

    Raises:
        UsageError: the repository is there already, and public.
        AlignError: one is not logged in, may not write there, or the hub cannot be reached.
    """
    if target == "hub":
        hub_upload.check_access(str(options.repo), private=not options.public)


def file_name(target: str, origin: Origin, options: Options) -> str:
    """The name that a GGUF file of this export has."""
    if "gguf-adapter" in (target, options.format):
        return f"{origin.name}-lora-{options.dtype or 'f32'}.gguf"
    return f"{origin.name}-{options.type or ('merged' if options.base_gguf else 'f16')}.gguf"


def publish(target: str, path: Path, origin: Origin, options: Options) -> str | None:
    """Hand a finished export on, where the target is a place beyond its folder.

    Returns:
        its address on the hub.

    Raises:
        AlignError: it was refused; the export stays where it is, and the same request, without `force`,
            sends it.
    """
    if target == "ollama" and options.name is not None and ollama.installed():
        ollama.create(options.name, path)
    if target == "hub" and options.repo is not None:
        return _upload(path, options.repo, origin, options)
    return None


def _upload(path: Path, repo: str, origin: Origin, options: Options) -> str:
    message = f"{origin.provenance.method} with mlx-align, step {origin.provenance.step}"
    try:
        address = hub_upload.upload(path, repo, private=not options.public, message=message)
    except AlignError as error:
        command = "the same command without --force" if options.force else "the same command"
        stays = f"The export stays at {path}; {command} uploads it and does not make it again."
        error.hint = f"{error.hint} {stays}" if error.hint else stays
        raise
    unsent.sent(path)
    return address


def describe(
    folder: Path, origin: Origin, options: Options, verification: Verification, written: Written
) -> None:
    """Write the model card of a folder for the hub.

    Args:
        folder: the export's.
        origin: what is exported.
        options: how; `repo` is given.
        verification: what came of it.
        written: what is in the folder.
    """
    card.write(
        folder,
        origin.provenance,
        str(options.format),
        str(options.repo),
        verification.line(),
        origin.run.state(),
        gguf=None if written.model == "." else written.model,
        warnings=verification.warnings,
    )

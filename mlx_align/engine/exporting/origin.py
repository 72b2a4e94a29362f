"""What is exported: a run's adapter and the base that it belongs to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tomli_w

from mlx_align.config import RunConfig
from mlx_align.digests import Digests, Files, files_of_adapter, files_of_model
from mlx_align.errors import AlignError, UsageError
from mlx_align.export import adapter as adapters
from mlx_align.export.adapter import Adapter
from mlx_align.export.base import Base
from mlx_align.export.provenance import Provenance, base_name, without_folders
from mlx_align.run_state import RunState
from mlx_align.runs import RunDirectory
from mlx_align.runs.chosen import adapter_of, made_of, model_of
from mlx_align.runs.directory import slug
from mlx_align.settings import cache_path
from mlx_align.toml import without_none


@dataclass(frozen=True)
class Origin:
    """A run's adapter, read when it is asked for.

    Attributes:
        run: the run.
        config: its configuration.
        folder: the base model's folder.
        adapter_folder: the adapter's, in mlx-lm's format.
        provenance: what travels with it.
    """

    run: RunDirectory
    config: RunConfig
    folder: Path
    adapter_folder: Path
    provenance: Provenance

    @cached_property
    def base(self) -> Base:
        """The base model."""
        return Base.open(self.folder)

    @cached_property
    def adapter(self) -> Adapter:
        """The adapter."""
        return adapters.read(self.adapter_folder)

    @property
    def name(self) -> str:
        """A name for files: base and method."""
        return slug(f"{self.provenance.base}-{self.provenance.method}")


def find_origin(run: RunDirectory, checkpoint: str | None) -> Origin:
    """What is to be exported of a run.

    Args:
        run: the run.
        checkpoint: a checkpoint's name, or "best"; None: as in `runs.chosen.adapter_of`.

    Raises:
        UsageError: there is no such adapter, or the base cannot be found, or is another model now.
        AlignError: the base cannot be read or fetched.
    """
    config, folder, adapter = run.config(), model_of(run), adapter_of(run, checkpoint)
    return Origin(run, config, folder, adapter, _provenance(run, config, folder, adapter))


def digest_of(folder: Path, files: Files, config: RunConfig) -> str:
    """SHA-256 of the files that decide what a model or an adapter computes.

    Raises:
        AlignError: one of them cannot be read.
    """
    notes = cache_path(config) / "digests"
    try:
        return Digests(notes, lambda error: None).folder(folder, files)
    except OSError as error:
        raise AlignError(f"it cannot be read: {error.strerror or error}", where=str(folder)) from None


def _provenance(run: RunDirectory, config: RunConfig, folder: Path, adapter: Path) -> Provenance:
    env, state = run.env(), run.state()
    commit = env.get("commit")
    step, digest = _step(run, adapter, state), digest_of(folder, files_of_model, config)
    if env.get("weights_fingerprint", digest) != digest:
        raise UsageError(
            "this is not the model that the run was trained on: its weights or its config.json have changed",
            where=str(folder),
            hint="Put the model back as it was: the adapter fits no other.",
        )
    return Provenance(
        run=run.name,
        method=config.method.name,
        base=base_name(config.model.path, commit),
        base_commit=commit,
        base_digest=digest,
        adapter_digest=digest_of(adapter, files_of_adapter, config),
        data_fingerprint=str(env.get("data_fingerprint", "")),
        step=step,
        config=tomli_w.dumps(without_none(without_folders(config, commit))),
        versions=dict(env.get("versions", {})),
        metrics=_metrics(state, step),
        positions=env.get("positions"),
    )


def _step(run: RunDirectory, adapter: Path, state: RunState) -> int:
    """The updates that an adapter has seen: those of the checkpoint that it is, or was made of."""
    if adapter == run.adapter:
        adapter = made_of(run) or adapter
    number = adapter.name.split("-")[1:2]
    return int(number[0]) if number else state.step


def _metrics(state: RunState, step: int) -> dict[str, float]:
    """The newest held-out measures that an adapter of this step can have."""
    seen = next((one.metrics for one in reversed(list(state.evals)) if one.step <= step), {})
    return {name: value for name, value in seen.items() if value is not None and math.isfinite(value)}

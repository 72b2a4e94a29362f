"""The adapters of a run that can be talked to: those of its checkpoints, and which of them is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlx_align.errors import UsageError
from mlx_align.runs import RunDirectory
from mlx_align_cli.display.listing import headline
from mlx_align_cli.saved import metrics_of, step_of

FINISHED = "adapter"
"""The name of the finished run's adapter where its checkpoint is gone."""


@dataclass(frozen=True)
class Adapter:
    """One of a run's adapters.

    Attributes:
        name: its checkpoint's name.
        folder: where it lies.
        step: after which update it was saved, None where that is not known.
        best: whether held-out rows say so.
        newest: whether none was saved later.
        metrics: of held-out rows, the newest when it was saved.
        usual: whether it is meant where none is named; see `runs.chosen.adapter_of`.
    """

    name: str
    folder: Path
    step: int | None = None
    best: bool = False
    newest: bool = False
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    usual: bool = False

    @property
    def title(self) -> str:
        """What it is called, such as "step 80"."""
        return "finished" if self.step is None else f"step {self.step:,}"

    @property
    def marks(self) -> str:
        """What is special about it."""
        marks = (("★ best", self.best), ("newest", self.newest))
        return ", ".join(mark for mark, holds in marks if holds)

    @property
    def label(self) -> str:
        """Both, such as "step 80 ★ best"."""
        return f"{self.title} {self.marks}".strip()

    @property
    def brief(self) -> str:
        """The same where there is little room: a best one that is the newest too is called the best."""
        return f"{self.title} ★ best" if self.best else self.label

    @property
    def measured(self) -> str:
        """The metrics that say most."""
        return headline(dict(self.metrics)) if self.metrics else ""


def adapters_of(run: RunDirectory) -> list[Adapter]:
    """A run's adapters, the newest first. What is read are small files; it belongs in a thread all the same.

    Raises:
        UsageError: the run has saved none yet.
    """
    from mlx_align.runs.chosen import adapter_of, best_checkpoint, made_of  # loads numpy

    paths, best = run.checkpoints().paths(), best_checkpoint(run)
    finished = made_of(run) if run.adapter.is_dir() else None
    found = [
        Adapter(
            path.name,
            run.adapter if path == finished else path,  # a checkpoint may be removed
            step_of(path),
            path == best,
            path == paths[-1],
            metrics_of(path),
        )
        for path in reversed(paths)
    ]
    if run.adapter.is_dir() and finished not in paths:
        found.append(Adapter(FINISHED, run.adapter, best=best is not None, newest=not found))
    if not found:
        raise UsageError("the run has saved no adapter yet", where=run.name, hint=_how(run))
    usual = adapter_of(run, None)
    return [replace(adapter, usual=adapter.folder == usual) for adapter in found]


def _how(run: RunDirectory) -> str:
    """How a run comes to an adapter."""
    if not run.is_running():
        return "It is not running: resume it on the list of runs."
    every = run.config().checkpoint.every
    return f"It saves one every {every} steps, and at once if you save one in its Monitor."


def pick(adapters: Sequence[Adapter], name: str | None) -> Adapter:
    """The adapter of this name; without a name the usual one.

    Raises:
        UsageError: it is not there any more.
    """
    if name is None:
        return next((adapter for adapter in adapters if adapter.usual), adapters[0])
    found = next((adapter for adapter in adapters if adapter.name == name), None)
    if found is None:
        names = ", ".join(adapter.title for adapter in adapters)
        raise UsageError(f"{name} is not kept any more", hint=f"There is: {names}.")
    return found

"""What rewards are computed by besides this program: a person's own files, and the models of judges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlx_align.digests import Digests
from mlx_align.engine.rollouts.judges import judge_folder
from mlx_align.errors import UsageError
from mlx_align.hub import COMPANIONS
from mlx_align.rewards import Spec
from mlx_align.rewards.judge import BASE, JudgeOptions
from mlx_align.rewards.python import PythonOptions
from mlx_align.weights import weight_files


@dataclass(frozen=True)
class Source:
    """What one reward is computed by.

    Attributes:
        reward: its label.
        path: the Python file, or the folder of the judge's model.
        digest: of its content; of a model, weights and tokenizer.
    """

    reward: str
    path: Path
    digest: str


def sources(specs: Iterable[Spec], digests: Digests) -> Iterator[Source]:
    """The sources of the rewards that have one. Modules that a Python file imports are not seen.

    Raises:
        UsageError: a file cannot be read, or a judge's model cannot be used.
        DataError: the index of its weights cannot be used.
    """
    for spec in specs:
        path = _path(spec)
        if path is None:
            continue
        try:
            digest = digests.folder(path, _files_of_judge) if path.is_dir() else digests.file(path)
        except OSError as error:
            what = f"what the reward '{spec.label}' is computed by cannot be read"
            raise UsageError(f"{what}: {error.strerror or error}", where=str(path)) from None
        yield Source(spec.label, path, digest)


def _files_of_judge(folder: Path) -> list[Path]:
    return [*weight_files(folder), *(file for pattern in COMPANIONS for file in folder.glob(pattern))]


def _path(spec: Spec) -> Path | None:
    options = spec.options
    if isinstance(options, PythonOptions):
        return options.file
    if isinstance(options, JudgeOptions) and options.model != BASE:
        return judge_folder(options.model)
    return None

"""Several ranks that work on one run: who knows what, and how they fail together.

Rank 0 has the run directory. Every other rank works in a folder of its own that goes when it ends, begins
with a copy of what rank 0 has, and keeps nothing but its cache. All of them make the same calls of `World` in
the same order, so what decides about that order is shared first.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mlx_align.backends.base import World
from mlx_align.engine.data import data_path
from mlx_align.errors import AlignError, DataError, UsageError, error_class
from mlx_align.hub import resolve_model
from mlx_align.runs import Control, RunDirectory
from mlx_align.runs.atomic import write_bytes, write_json

RANKS = "ranks"
"""The key of env.json that says how many ranks a run has; not there: one."""


def copy_run(run: RunDirectory, world: World) -> None:
    """Give every rank what it needs of rank 0's run: configuration, facts, the adapter it began from, the
    newest checkpoint.
    """
    if world.size == 1:
        return
    files: dict[str, bytes] = {}
    if world.rank == 0:
        run.keep_start()
        files = _files(run)
    sizes = world.gather({name: len(data) for name, data in files.items()})[0]
    own = b"".join(files.values()) or bytes(sum(sizes.values()))
    data = world.sum({"bytes": np.frombuffer(own, np.uint8)})["bytes"].tobytes()
    for name, size in sizes.items() if world.rank else ():
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(run.path / name, data[:size])
        data = data[size:]


def _files(run: RunDirectory) -> dict[str, bytes]:
    folders = [folder for folder in (run.start, run.checkpoints().latest()) if folder is not None]
    paths = [run.path / "config.toml", run.path / "env.json"]
    paths += [file for folder in folders for file in sorted(folder.glob("*"))]
    return {str(path.relative_to(run.path)): path.read_bytes() for path in paths}


def settle(run: RunDirectory, world: World) -> None:
    """Note how many ranks the run has, and find its model and data where they are on this machine.

    Raises:
        UsageError: the run began with another number of ranks; or there is no such model here.
    """
    env = run.env()
    begun = env.get(RANKS, 1)
    if begun != world.size and run.checkpoints().latest() is not None:
        words = "mlx-align" if begun == 1 else f"mlx.launch -n {begun} mlx-align"
        raise UsageError(
            f"this run began with {begun} rank{'s' * (begun > 1)}, not {world.size}",
            where=run.name,
            hint=f"Every batch is divided among them: `{words} runs resume {run.name}`, or a new run.",
        )
    if begun != world.size:
        env[RANKS] = world.size
    if world.rank:
        config = run.config()
        if not Path(env["model_folder"]).is_dir():
            source = resolve_model(config.model.path, config.model.revision)
            env["model_folder"] = str(source.folder.resolve())
        if not Path(env["data"]).exists():
            env["data"] = str(data_path(config).resolve())
    write_json(run.path / "env.json", env)


@contextmanager
def together(world: World) -> Iterator[None]:
    """What fails on one rank fails on all of them, and each says why. No call of `World` belongs inside.

    Raises:
        AlignError: as on this rank, or on the first that failed.
    """
    failed: AlignError | None = None
    try:
        yield
    except AlignError as error:
        failed = error
    words = None if failed is None else (failed.exit_code, failed.message, failed.where, failed.hint)
    told = world.gather((platform.node(), words))
    if failed is not None:
        raise failed
    for rank, (host, theirs) in enumerate(told):
        if theirs is not None:
            code, message, where, hint = theirs
            raise error_class(code)(f"on rank {rank} ({host}): {message}", where=where, hint=hint)


def agree(world: World, facts: Mapping[str, str]) -> None:
    """Make sure that all ranks train the same.

    Args:
        world: the ranks.
        facts: what must be equal, by names that a person understands.

    Raises:
        DataError: (on every rank) something is not.
    """
    told = world.gather({"host": platform.node(), **facts})
    for rank, theirs in enumerate(told):
        for name in facts:
            if theirs[name] != told[0][name]:
                raise DataError(
                    f"rank {rank} ({theirs['host']}) and rank 0 ({told[0]['host']}) differ in {name}",
                    hint="Every machine needs the same data, the same model and the same mlx-align.",
                )


class SharedControl(Control):
    """Requests to a run of several ranks: one that is made to any of them is made to all."""

    def __init__(self, folder: Path, world: World) -> None:
        super().__init__(folder)
        self._world = world

    def requested(self, what: str) -> bool:
        """Whether such a request waits for any rank."""
        return any(self._world.gather(super().requested(what)))

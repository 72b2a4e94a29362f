"""What every rank runs in test_distributed: several runs, one after the other. Not a test itself.

    mlx.launch -n 2 python -m tests.e2e.one_rank PLAN.json

The plan is a list of scenes, each with the run's folder and what should happen to it:
    stop, checkpoint    [rank, micro-batch]: this rank is asked for it there
    die                 [rank, micro-batch]: this rank is killed there
    other               [rank, key of env.json, value]: what this rank finds on its machine
Every rank writes the exit codes of its engines, and what it left behind, beside the plan.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlx_align.backends.base import World
from mlx_align.engine import __main__ as engine
from mlx_align.engine import trainer
from mlx_align.launched import rank
from mlx_align.runs import RunDirectory
from mlx_align.runs.atomic import write_json

copy_run, micro_batch = engine.copy_run, trainer.Trainer._micro_batch


def prepare(scene: dict[str, Any]) -> None:
    """Make the scene's events happen on this rank."""
    done = 0
    mine = {what: at[1] for what, at in scene.items() if what != "run" and at[0] == (rank() or 0)}

    def counted(self: trainer.Trainer, *arguments: Any) -> tuple[str, ...]:
        nonlocal done
        done += 1
        if mine.get("die") == done:
            os.kill(os.getpid(), signal.SIGKILL)
        for what in {"stop", "checkpoint"} & mine.keys():
            if mine[what] == done:
                self._control.request(what)
        return micro_batch(self, *arguments)

    def changed(run: RunDirectory, world: World) -> None:
        copy_run(run, world)
        if "other" in mine:
            write_json(run.path / "env.json", {**run.env(), mine["other"]: scene["other"][2]})

    trainer.Trainer._micro_batch = counted  # type: ignore[method-assign]
    engine.copy_run = changed


def main(plan: Path) -> None:
    """Play the scenes, rank 0 in the runs' own folders."""
    codes = []
    for scene in json.loads(plan.read_text()):
        prepare(scene)
        if rank() == 0:
            codes.append(engine.main([scene["run"]]))
        else:
            with tempfile.TemporaryDirectory() as folder:
                codes.append(engine.main([folder]))
    plan.with_name(f"codes-{rank()}.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # as the engine's program does: MLX might wait for a rank that has gone

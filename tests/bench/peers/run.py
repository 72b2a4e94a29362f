"""The driver: every cell, every arm, interleaved; writes tests/bench/results/peers.json after each cell.

    python -m tests.bench.peers.run                              all cells, all arms, 5 repeats
    python -m tests.bench.peers.run --cells headline long        groups, or names, or parts of names
    python -m tests.bench.peers.run --quick --arms ours          one tiny cell, once, written nowhere

Cells that are not measured again keep their figures. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_align.backends.mlx import blas
from tests.bench.peers import cells, flops, gate, summary, workload
from tests.bench.peers.cells import Cell
from tests.bench.peers.contenders import CONTENDERS
from tests.bench.peers.environments import cache, python_of
from tests.bench.peers.machine import machine
from tests.bench.provenance import RESULTS, provenance
from tests.conftest import ROOT

RESULT = RESULTS / "peers.json"
REPEATS = 5
TIMEOUT = 1800.0
WARM_STEPS = 2
"""Of an untimed run before the first: MLX's CPU device compiles C++ kernels then, and keeps them on disk."""
ENVIRON = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONPATH": str(ROOT),
    **blas.environment(),  # the same matrix products for every MLX arm
}


class ArmError(Exception):
    """An arm's process failed; the message is the end of what it said."""


@dataclass
class Bench:
    """One invocation.

    Args:
        arms: names in CONTENDERS.
        repeats: of each arm in each cell.
        scratch: a folder for outcomes.
    """

    arms: Sequence[str]
    repeats: int
    scratch: Path

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Gate every arm, then time them in turns."""
        work = workload.make(cell, cache() / "workloads")
        if not (work.folder / "oracle.json").exists():
            say(f"{cell.name}: float64 oracle")
            process(python_of(None), ["-m", "tests.bench.peers.oracle", str(work.folder)])
        arms = [name for name in self.arms if cell.method in CONTENDERS[name].only]
        results: dict[str, dict[str, Any]] = {}
        for name in arms:
            say(f"{cell.name}: gradient of {name}")
            try:
                self._arm(name, work, ["--gradient", str(self._gradient(name))])
                self._arm(name, work, ["--steps", str(WARM_STEPS)])
                results[name] = {"outcomes": []}
            except ArmError as error:
                results[name] = {"error": str(error)}
        rates: dict[str, list[float]] = {}
        for repeat in range(self.repeats):
            self._turn(repeat, cell, work, results, rates)
        counted = flops.counted(work, flops.read_config(work))
        for name, result in results.items():
            if "error" not in result:
                results[name] = self._judged(name, work, result["outcomes"], rates, counted)
        return {
            **cell.describe(),
            "pair_tokens": sum(work.step_tokens()),
            "flops": counted,
            "matrix_rate": {name: summary.spread(values) for name, values in rates.items()},
            "arms": results,
            "ratios": summary.ratios(results, cell.method),
            "repeats": self.repeats,
            "measured": {
                **{key: provenance()[key] for key in ("commit", "date")},
                **machine(),
            },
        }

    def _turn(
        self,
        repeat: int,
        cell: Cell,
        work: workload.Workload,
        results: dict[str, dict[str, Any]],
        rates: dict[str, list[float]],
    ) -> None:
        """Each arm once, beginning with another one every time; and the matrix products beside them."""
        for framework in sorted({CONTENDERS[name].framework for name in results}):
            outcome = self._module("flops", None, work, ["--framework", framework])
            rates.setdefault(framework, []).append(outcome["rate"])
        names = [name for name in results if "error" not in results[name]]
        shift = repeat % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            try:
                outcome = self._arm(name, work)
            except ArmError as error:
                results[name] = {"error": str(error)}
                continue
            results[name]["outcomes"].append(outcome)
            rate = summary.whole_rate(work, outcome)
            say(f"{cell.name}: {name} {repeat + 1}/{self.repeats}: {rate:.0f} pair tokens/s")

    def _judged(
        self,
        name: str,
        work: workload.Workload,
        outcomes: list[dict[str, Any]],
        rates: dict[str, list[float]],
        counted: dict[str, float],
    ) -> dict[str, Any]:
        contender = CONTENDERS[name]
        definition = contender.definition(work.method)
        losses = outcomes[0]["losses"]
        verdict = gate.judge(work.folder, definition, self._gradient(name), losses)
        return {
            "gate": verdict.to_json(),
            **summary.figures(work, outcomes, rates[contender.framework], counted),
        }

    # Processes

    def _gradient(self, name: str) -> Path:
        return self.scratch / f"gradient-{name}.safetensors"

    def _arm(self, name: str, work: workload.Workload, extra: Sequence[str] = ()) -> dict[str, Any]:
        contender = CONTENDERS[name]
        options = [f"--option={key}={value}" for key, value in contender.options.items()]
        return self._module(contender.module, contender.environment, work, [*options, *extra])

    def _module(
        self, module: str, environment: str | None, work: workload.Workload, extra: Sequence[str]
    ) -> dict[str, Any]:
        load = os.getloadavg()
        target = self.scratch / "outcome.json"
        target.unlink(missing_ok=True)
        arguments = ["-m", f"tests.bench.peers.{module}", str(work.folder), str(target), *extra]
        process(python_of(environment), arguments)
        return {**json.loads(target.read_text(encoding="utf-8")), "load_average": load}


def process(python: Path, arguments: Sequence[str]) -> None:
    """Run one process to its end.

    Raises:
        ArmError: it failed, took too long, or its environment is not there.
    """
    command = [str(python), *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **ENVIRON}, capture_output=True, text=True, timeout=TIMEOUT
        )
    except FileNotFoundError:
        raise ArmError("no such environment: run `python -m tests.bench.peers.environments`") from None
    except subprocess.TimeoutExpired:
        raise ArmError(f"it took more than {TIMEOUT:.0f} seconds") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).split("\n") if line.strip()]
        print("\n".join(lines[-30:]), file=sys.stderr)
        raise ArmError(lines[-1] if lines else f"exit code {done.returncode}")


def say(what: str) -> None:
    """Progress."""
    print(what, file=sys.stderr, flush=True)


def chosen(wanted: Sequence[str]) -> list[Cell]:
    """Cells by group, by name or by a part of a name."""
    everything = {name: group() for name, group in cells.GROUPS.items()}
    found: dict[str, Cell] = {}
    for word in wanted:
        group = everything.get(word) or [c for cs in everything.values() for c in cs if word in c.name]
        if not group:
            raise SystemExit(f"no cell is called {word}")
        found.update({cell.name: cell for cell in group})
    return list(found.values())


def write(measured: dict[str, dict[str, Any]]) -> None:
    """Put these cells into the result file, beside those that are there."""
    kept = json.loads(RESULT.read_text(encoding="utf-8"))["cells"] if RESULT.exists() else {}
    tree = {
        "what": "unpadded pair tokens (2P + C + R) per second of real trainers, on identical work",
        "machine": machine(),
        "arms": {name: {"title": c.title, "orpo": c.orpo} for name, c in CONTENDERS.items()},
        "gate": {"loss": gate.LOSS, "gradient": gate.GRADIENT, "update": gate.UPDATE},
        "cells": {**kept, **measured},
    }
    text = json.dumps({**provenance(), **tree}, indent=1)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", default=["headline", "long", "sweep"])
    parser.add_argument("--arms", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--quick", action="store_true", help="one tiny cell, once, printed and not written")
    parser.add_argument("--list", action="store_true", help="name the cells and stop")
    arguments = parser.parse_args()
    selected = chosen(["quick-orpo"] if arguments.quick else arguments.cells)
    if arguments.list:
        print("\n".join(cell.name for cell in selected))
        return
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(arguments.arms, 1 if arguments.quick else arguments.repeats, Path(scratch))
        failed = run(bench, selected, keep=not arguments.quick)
    sys.exit(1 if failed else 0)


def run(bench: Bench, selected: Sequence[Cell], *, keep: bool) -> bool:
    """Measure the cells; True if one of our own arms failed or is not equivalent."""
    failed = False
    for cell in selected:
        result = bench.measure(cell)
        if keep:
            write({cell.name: result})
        for name, arm in result["arms"].items():
            verdict = arm["error"] if "error" in arm else arm["gate"]["verdict"]
            failed |= name.startswith("ours") and verdict != "equivalent"
            say(f"{cell.name}: {name}: {verdict}; {json.dumps(arm.get('gate', {}))}")
        say(f"{cell.name}: {json.dumps(result['ratios'])}")
    return failed


if __name__ == "__main__":
    main()

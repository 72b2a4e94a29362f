"""What every arm shares: the clock, the memory figures and the file it leaves behind.

An arm is a module with `run(workload, recorder, gradient)`; `main(run)` is its command line:

    python -m tests.bench.peers.arm_NAME WORKLOAD OUTCOME [--steps N] [--gradient FILE] [--option KEY=VALUE]

With --gradient it makes one step of plain gradient descent instead of a timed run, and leaves the gradient
of the adapter, found from how far the step went, in FILE. --steps ends the run early.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tests.bench.peers.workload import Workload

GRADIENT_RATE = 1e3
"""The learning rate of the one gradient step: large, so that it is not lost in the weights' last digits."""

LIBRARIES = (
    "mlx", "mlx-lm", "mlx-lm-lora", "mlx-vlm", "unsloth_zoo", "torch", "transformers", "peft", "trl", "numpy",
)  # fmt: skip


class Memory(Protocol):
    """How an arm's framework says what it uses, in bytes."""

    def start(self) -> None:
        """Everything is loaded: what is used now is the base."""

    def over_base(self) -> int:
        """The highest since then, less the base."""


class Resident:
    """The kernel's own high-water mark of resident memory (VmHWM), set back when measuring starts."""

    def start(self) -> None:
        """Give back what loading has freed, and set the mark to the present."""
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._base = self._read("VmRSS")

    def over_base(self) -> int:
        """Peak less base."""
        return self._read("VmHWM") - self._base

    @staticmethod
    def _read(key: str) -> int:
        if sys.platform != "linux":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for line in Path("/proc/self/status").read_text(encoding="ascii").split("\n"):
            if line.startswith(key):
                return int(line.split()[1]) * 1024
        raise LookupError(key)


class Recorder:
    """The clock of one run: begins with the trainer's work, marks the end of each step.

    `reference_seconds` is what a trainer spends on the reference before its first step; the steady state
    gets its share of it, because other trainers spend it inside their steps.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory, self._resident = memory, Resident()
        self._marks: list[float] = []
        self._losses: list[float] = []
        self.reference_seconds = 0.0
        self.notes: dict[str, Any] = {}

    def begin(self) -> None:
        """The model is loaded and the data is tokenised: from here on it counts."""
        self._memory.start()
        self._resident.start()
        self._began = time.perf_counter()

    def reference_done(self) -> None:
        """All that was done since `begin` was the reference pass."""
        self.reference_seconds = time.perf_counter() - self._began

    def step(self, loss: float) -> None:
        """An update has been applied and its result is there."""
        self._marks.append(time.perf_counter())
        self._losses.append(float(loss))

    def end(self) -> None:
        """The trainer has returned."""
        self._ended = time.perf_counter()
        self._peak, self._resident_peak = self._memory.over_base(), self._resident.over_base()

    def outcome(self) -> dict[str, Any]:
        """As JSON values."""
        starts = [self._began + self.reference_seconds, *self._marks[:-1]]
        return {
            "whole_seconds": self._ended - self._began,
            "reference_seconds": self.reference_seconds,
            "step_seconds": [mark - start for mark, start in zip(self._marks, starts, strict=True)],
            "losses": self._losses,
            "peak_over_base": self._peak,
            "resident_over_base": self._resident_peak,
            "notes": self.notes,
        }


Run = Callable[[Workload, Recorder, "GradientFile | None", dict[str, str]], None]


class GradientFile:
    """Where an arm leaves its adapter gradient, under mlx-lm's names and in its layout."""

    def __init__(self, path: Path, start: dict[str, np.ndarray]) -> None:
        self._path, self._start = path, start

    def from_step(self, after: dict[str, np.ndarray]) -> None:
        """From the adapter after one step of gradient descent at GRADIENT_RATE."""
        self.write({name: (first - after[name]) / GRADIENT_RATE for name, first in self._start.items()})

    def write(self, gradient: dict[str, np.ndarray]) -> None:
        """The gradient itself."""
        from safetensors.numpy import save_file

        save_file(
            {name: np.ascontiguousarray(gradient[name], np.float32) for name in self._start}, self._path
        )


def first_adapter(workload: Workload) -> dict[str, np.ndarray]:
    """The adapter every arm starts from."""
    from safetensors.numpy import load_file

    return load_file(workload.adapter)


def versions() -> dict[str, str]:
    """Of the libraries in this environment."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(run: Run, memory: Memory) -> None:
    """An arm's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", type=Path)
    parser.add_argument("outcome", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--gradient", type=Path)
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    workload = Workload.read(arguments.workload)
    gradient = None
    if arguments.gradient:
        workload = workload.first(1)
        gradient = GradientFile(arguments.gradient, first_adapter(workload))
    elif arguments.steps:
        workload = workload.first(arguments.steps)
    recorder = Recorder(memory)
    options = dict(pair.split("=", 1) for pair in arguments.option)
    run(workload, recorder, gradient, options)
    outcome = {**recorder.outcome(), "versions": versions()}
    arguments.outcome.write_text(json.dumps(outcome), encoding="utf-8")

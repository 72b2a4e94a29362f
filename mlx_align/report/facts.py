"""What a report says of a run, as plain values: how it went, how it compares, what was made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from mlx_align.events import Eval, Number, RunFinished
from mlx_align.run_state import RunState
from mlx_align.runs import RunDirectory

MANIFEST = "mlx-align.json"
"""What an export leaves beside itself: this name in a folder, the end of the name beside a file."""

SHARES = ("accuracy", "exact", "truncated", "unscored", "no_signal")
"""Measures that are shown as percentages, as those are that begin with "pass@"."""

FIRST = ("margin", "accuracy", "reward", "exact", "loss", "length", "kl")
"""The measures that say most, in their order; the others follow by name."""


@dataclass(frozen=True)
class Measure:
    """One measure on held-out rows, before training and of the weights that were kept."""

    name: str
    before: Number
    after: Number


@dataclass(frozen=True)
class Export:
    """One thing that was made of the run's adapter. `size` is in bytes; `verdict` is a line for a person."""

    target: str
    name: str
    size: int
    verified: bool
    verdict: str


def kept(state: RunState) -> Eval | None:
    """The evaluation of the weights that were kept: the best one's if the run has finished, else the last."""
    end = state.end
    step = end.best_step if isinstance(end, RunFinished) else None
    return next((each for each in reversed(list(state.evals)) if each.step == step), state.evals.last())


def measures(state: RunState) -> list[Measure]:
    """Every measure on held-out rows; one that was taken once only has no `after`."""
    first, last = next(iter(state.evals), None), kept(state)
    if first is None or last is None:
        return []
    names = sorted({*first.metrics, *last.metrics}, key=_place)
    later = last is not first or isinstance(state.end, RunFinished)
    return [Measure(name, _value(first, name), _value(last, name) if later else None) for name in names]


def _place(name: str) -> tuple[int, str]:
    return (FIRST.index(name) if name in FIRST else len(FIRST), name)


def _value(taken: Eval, name: str) -> Number:
    """A measure; no accuracy where every margin is 0, as before training: none is right and none is wrong.

    The share of answers that could not be scored is not in an evaluation where it is 0.
    """
    if name == "accuracy" and taken.metrics.get("margin") == 0.0:
        return None
    return taken.metrics.get(name, 0.0 if name == "unscored" else None)


def exports(run: RunDirectory) -> list[Export]:
    """What lies in the run's folder of exports, each with what came of its verification."""
    folder = run.path / "exports"
    return [_export(path) for path in sorted(folder.rglob(f"*{MANIFEST}"))] if folder.is_dir() else []


def _export(manifest: Path) -> Export:
    alone = manifest.name != MANIFEST  # it lies beside a file
    thing = manifest.with_name(manifest.name.removesuffix(f".{MANIFEST}")) if alone else manifest.parent
    try:
        told = json.loads(manifest.read_text(encoding="utf-8"))
        target, verification = str(told["target"]), told["verification"]
        verified, verdict = bool(verification["verified"]), _verdict(verification)
    except (OSError, ValueError, KeyError, TypeError):
        target, verified, verdict = "unknown", False, "its manifest cannot be read"
    return Export(target, thing.name, _size(thing), verified, verdict)


def _verdict(verification: Mapping[str, object]) -> str:
    figures = verification["figures"]
    if not isinstance(figures, Mapping):
        return f"not verified: {verification['reason']}"
    difference = number(figures["difference"])
    return f"verified by {figures['loader']}: largest difference of a probability {difference}"


def _size(thing: Path) -> int:
    files = thing.rglob("*") if thing.is_dir() else [thing]
    return sum(file.stat().st_size for file in files if file.is_file())


def measured(name: str, value: Number) -> str:
    """A measure's value in the form its name asks for; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.1%}" if name in SHARES or name.startswith("pass@") else number(value)


def number(value: object) -> str:
    """A number with four significant digits."""
    return f"{value + 0.0:.4g}" if isinstance(value, int | float) else "–"  # + 0.0: no -0


def duration(seconds: float) -> str:
    """A span as h:mm:ss."""
    return str(timedelta(seconds=round(max(0.0, seconds))))

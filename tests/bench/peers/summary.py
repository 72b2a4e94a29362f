"""From an arm's repeats to the figures of a cell."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from tests.bench.peers.contenders import OURS, twin_of
from tests.bench.peers.workload import Workload

Outcome = dict[str, Any]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and extremes, and every value."""
    return {"median": median(values), "min": min(values), "max": max(values), "all": list(values)}


def whole_rate(workload: Workload, outcome: Outcome) -> float:
    """Pair tokens a second over everything but loading."""
    return sum(workload.step_tokens()) / outcome["whole_seconds"]


def steady_rate(workload: Workload, outcome: Outcome) -> float:
    """Pair tokens a second after the first steps; a reference pass made beforehand is charged by tokens."""
    tokens = workload.step_tokens()
    steady = sum(tokens[workload.warmup :])
    seconds = sum(outcome["step_seconds"][workload.warmup :])
    return steady / (seconds + outcome["reference_seconds"] * steady / sum(tokens))


def figures(
    workload: Workload, outcomes: Sequence[Outcome], rates: Sequence[float], work: dict[str, float]
) -> dict[str, Any]:
    """One arm in one cell.

    Args:
        workload: the cell's.
        outcomes: of its repeats.
        rates: of the same matrix products in this run, operations a second.
        work: counted operations, from `flops.counted`.
    """
    seconds = median(outcome["whole_seconds"] for outcome in outcomes)
    return {
        "whole_seconds": spread([outcome["whole_seconds"] for outcome in outcomes]),
        "whole_rate": spread([whole_rate(workload, outcome) for outcome in outcomes]),
        "steady_rate": spread([steady_rate(workload, outcome) for outcome in outcomes]),
        "reference_seconds": median(outcome["reference_seconds"] for outcome in outcomes),
        "peak_over_base": max(outcome["peak_over_base"] for outcome in outcomes),
        "resident_over_base": max(outcome["resident_over_base"] for outcome in outcomes),
        "utilisation": {name: flops / (seconds * median(rates)) for name, flops in work.items()},
        "losses": outcomes[0]["losses"],
        "notes": outcomes[0]["notes"],
        "versions": outcomes[0]["versions"],
        "load_average": [outcome["load_average"] for outcome in outcomes],
    }


def ratios(arms: dict[str, dict[str, Any]], method: str) -> dict[str, dict[str, float]]:
    """How our arm of the same definition compares with each peer: times as fast, share of its memory.

    Only between arms that have passed the gate.
    """
    found = {}
    for name, peer in arms.items():
        ours = arms.get(twin_of(name, method), {})
        if name in OURS or not all(map(_comparable, (ours, peer))):
            continue
        found[name] = {
            "whole": ours["whole_rate"]["median"] / peer["whole_rate"]["median"],
            "steady": ours["steady_rate"]["median"] / peer["steady_rate"]["median"],
            "memory": ours["peak_over_base"] / max(1, peer["peak_over_base"]),
            "resident": ours["resident_over_base"] / max(1, peer["resident_over_base"]),
        }
    return found


def _comparable(arm: dict[str, Any]) -> bool:
    return "whole_rate" in arm and arm["gate"]["verdict"] == "equivalent"

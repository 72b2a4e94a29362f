"""The memory planner: what a run will need, whether this machine has it, and what to change if not."""

from __future__ import annotations

from mlx_align.engine.planning.adapted import Adapter
from mlx_align.engine.planning.advice import Advice, advise
from mlx_align.engine.planning.facts import ModelFacts, read_facts
from mlx_align.engine.planning.footprint import Arithmetic, Footprint
from mlx_align.engine.planning.planner import TIGHT, Plan, Planner, Verdict
from mlx_align.engine.planning.preflight import Forecast, forecast, gigabytes, preflight

__all__ = [
    "TIGHT",
    "Adapter",
    "Advice",
    "Arithmetic",
    "Footprint",
    "Forecast",
    "ModelFacts",
    "Plan",
    "Planner",
    "Verdict",
    "advise",
    "forecast",
    "gigabytes",
    "preflight",
    "read_facts",
]

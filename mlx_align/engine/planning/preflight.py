"""The plan before a run begins, in words: told, and refused where it cannot work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlx_align import events
from mlx_align.config import RunConfig
from mlx_align.engine.planning.advice import Advice, advise
from mlx_align.engine.planning.planner import Plan, Planner
from mlx_align.engine.reporter import Reporter
from mlx_align.errors import WontFitError

FORCE = "--set guard.memory=warn tries it all the same."


@dataclass(frozen=True)
class Forecast:
    """A plan, and what to change where it does not fit well.

    Attributes:
        plan: of the run as it is configured.
        advice: the cheapest change; None where none is needed, or none helps.
        model: what the run calls its base.
    """

    plan: Plan
    advice: Advice | None
    model: str

    @property
    def summary(self) -> str:
        """What it needs of what there is, in a few words."""
        available = self.plan.available
        return f"about {gigabytes(self.plan.total)}" + (f" of {gigabytes(available)}" if available else "")

    @property
    def remedy(self) -> str:
        """What to type instead."""
        advice = self.advice
        if advice is None:
            return "No setting changes that: take a smaller base model." if self.plan.available else ""
        lost = f", without the {advice.lost:,} longest rows" if advice.lost else ""
        words = f"`{advice.options}`" if advice.settings else ""
        if advice.quantise:
            name = self.model.rstrip("/").rsplit("/", 1)[-1]
            convert = f"`mlx_lm.convert --hf-path {self.model} -q --mlx-path {name}-4bit`"
            words = f"{convert} and train {name}-4bit" + (f" with {words}" if words else "")
        return f"{words} needs {gigabytes(advice.plan.total)}{lost}."

    @property
    def event(self) -> events.Plan:
        """For the run's log."""
        footprint = self.plan.footprint
        return events.Plan(
            moment=footprint.moment,
            parts=footprint.parts,
            total=footprint.total,
            available=self.plan.available,
            verdict=self.plan.verdict,
            advice=self.remedy if self.advice else None,
        )


def forecast(planner: Planner, config: RunConfig) -> Forecast:
    """The plan of a run, with advice where it does not fit well."""
    plan = planner.plan(config)
    advice = advise(planner, config) if plan.verdict in ("tight", "will not fit") else None
    return Forecast(plan, advice, config.model.path)


def preflight(
    planner: Planner, config: RunConfig, report: Reporter, otherwise: Literal["refuse", "warn"]
) -> None:
    """Say what the run will need.

    Args:
        planner: of the run's model and rows.
        config: the run's.
        report: writes events.
        otherwise: what to do if it will not fit.

    Raises:
        WontFitError: it will not fit, and is to be refused then.
    """
    found = forecast(planner, config)
    report(found.event)
    if found.plan.verdict == "tight":
        text = f"Memory will be tight: the run needs {found.summary}."
        report.alert("tight-memory", f"{text} {found.remedy}" if found.advice else text)
    if found.plan.verdict != "will not fit":
        return
    text = f"this run will not fit: it needs {found.summary}"
    if otherwise == "refuse":
        raise WontFitError(text, where=config.model.path, hint=f"{found.remedy} {FORCE}")
    report.alert("will-not-fit", f"{text[0].upper()}{text[1:]}. {found.remedy}")


def gigabytes(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"

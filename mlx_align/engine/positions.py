"""LongRoPE over a run: its longest row decides which list of factors all are read with.

What the lists are is told by `backends.mlx.longrope`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlx_align.backends.base import Policy
from mlx_align.backends.positions import Positions
from mlx_align.config import RunConfig
from mlx_align.data import Example
from mlx_align.engine.evaluation import spread
from mlx_align.engine.preparing import reserved
from mlx_align.engine.reporter import Reporter
from mlx_align.errors import AlignError
from mlx_align.paths import typed
from mlx_align.rewards.judge import BASE
from mlx_align.runs import run_around

KEY = "positions"
"""The key of env.json that has `record`; not there: the model has one list at most."""

CHANGED = "the model's position factors (LongRoPE) are chosen otherwise now than when this run began"
PUT_BACK = (
    "The longest row that is read chooses them: eval.rows or sampling.max_tokens is another, or the backend "
    "or a library reads the model otherwise. Put it back as it was, or start a new run."
)

UNKNOWN = (
    "This model turns long texts by other factors (LongRoPE), and which were in use when this run began was "
    "not noted. It goes on with those that its longest row asks for; a new run is sure to have one kind only."
)


def longest_of(config: RunConfig, rows: Iterable[Example]) -> int:
    """Tokens of the longest sequence that a run reads, of which the answer may have to be sampled first."""
    return max(row.length for row in rows) + reserved(config)


def reads_long(policy: Policy) -> bool:
    """Whether all rows are read with the factors for long ones, of a model that has others too."""
    return policy.positions is not None and policy.positions.long is True


def record(positions: Positions) -> dict[str, Any]:
    """What env.json keeps, so that a resume can be compared, and what an export tells."""
    return {"list": "long" if positions.long else "short", "border": positions.border}


def tell(
    report: Reporter, config: RunConfig, positions: Positions, longest: int, valid: Sequence[Example]
) -> None:
    """Alert a person to what is read otherwise than elsewhere, or may be.

    Args:
        report: is told.
        config: the run's.
        positions: how the model was settled.
        longest: from `longest_of`.
        valid: the held-out rows that are read.
    """
    if positions.long:
        report.alert("long-positions", _trained_long(config, positions.border, longest))
    elif past := _past(config, positions.border, valid):
        text = (
            f"All rows are read with this model's factors for texts of up to {positions.border} tokens "
            f"(LongRoPE), and what the run generates besides is too, should it be longer: "
            f"{' and '.join(past)}."
        )
        report.alert("past-positions", text, level="info")
    if config.adapter.start is not None:
        _tell_start(report, typed(config.adapter.start), record(positions)["list"])


def _trained_long(config: RunConfig, border: int, longest: int) -> str:
    sampled = reserved(config)
    room = border - (longest - sampled)
    if not sampled:
        what = f"The longest row has {longest} tokens"
        advice = f"data.max_length={border} with data.too_long=drop leaves the long rows out"
    elif room > 0:
        what = f"The longest prompt and sampling.max_tokens are {longest} tokens together"
        advice = f"sampling.max_tokens={room} with data.max_length={border} keeps all below"
    else:
        what = f"The longest prompt has {longest - sampled} tokens without its answer"
        advice = "leave out the long prompts, and choose a smaller sampling.max_tokens"
    return (
        f"{what}, and this model turns texts of more than {border} by other factors (LongRoPE): all rows are "
        f"read with those for long texts. Where programs read short questions with the others, answers "
        f"differ; {advice}."
    )


def _past(config: RunConfig, border: int, valid: Sequence[Example]) -> list[str]:
    """What a run that is read with the short list may read past the border, in words."""
    found = []
    prompts = [len(row.prompt_ids) for row in spread(valid, config.eval.samples)]
    most = max(prompts, default=0) + config.eval.max_tokens
    if prompts and most > border:
        found.append(f"an answer at an evaluation may come to {most} tokens with its prompt")
    if any(one.name == "judge" and one.options.get("model", BASE) == BASE for one in config.rewards):
        found.append("the judge reads a rubric beside what it judges, and replies")
    return found


def _tell_start(report: Reporter, start: Path, ours: str) -> None:
    """Say so if the run that a starting adapter lies in was read with the other list."""
    run = run_around(start)
    with suppress(AlignError):  # another run's damage is not this one's trouble
        learnt = {} if run is None else run.env().get(KEY, {})
        if learnt and learnt["list"] != ours:
            text = (
                f"The starting adapter was learnt with this model's factors for {learnt['list']} texts "
                f"(LongRoPE), and this run reads its rows with those for {ours} ones."
            )
            report.alert("start-positions", text)

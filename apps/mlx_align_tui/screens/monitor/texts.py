"""What Monitor says besides curves, as Rich text. Pure functions of a look and of a theme's variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mlx_align.events import Alert, Completion, Plan, RunFailed, Sample, Scored
from mlx_align.run_state import RunState
from mlx_align_cli.display.facts import sampling_speed, total_steps
from mlx_align_cli.display.text import clean, duration, few, number, one_line, size
from mlx_align_tui.live.health import Finding
from mlx_align_tui.live.watching import Look
from mlx_align_tui.widgets.badge import colour, sign

Variables = Mapping[str, str]
BAR = 16
LEVELS = {
    "good": ("✔", "success"),
    "info": ("·", "quiet"),
    "warning": ("!", "warning"),
    "error": ("✘", "error"),
}


def status(look: Look, variables: Variables, width: int) -> Text:
    """The line of state, progress, speed, memory and time; what says least is left out where it is narrow."""
    state, total = look.state, total_steps(look.state)
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    text.append(f"{sign(look.condition)} {look.condition}", style=colour(look.condition, dict(variables)))
    parts: list[Text] = [Text(f"step {state.step:,}" + (f"/{total:,}" if total else ""))]
    if total:
        parts[0].append(" ").append_text(bar(state.step / total, variables))
    if look.condition == "running" and look.pace.remaining is not None:
        parts.append(Text(f"{duration(look.pace.remaining)} left"))
    parts.append(
        Text(
            f"{duration(look.pace.elapsed)} so far"
            if look.condition == "running"
            else f"took {duration(look.pace.elapsed)}"
        )
    )
    if look.pace.tokens_per_second:
        parts.append(Text(f"{look.pace.tokens_per_second:,.0f} tok/s"))
    memory = state.memory
    if memory is not None and memory.peak:
        of = f" of {size(memory.limit)}" if memory.limit else ""
        parts.append(Text(f"{size(memory.peak)}{of}"))
    if look.condition == "running" and state.phase is not None and state.phase.name != "training":
        parts.insert(1, Text(phase(state), style=variables.get("accent", "")))
    if (speed := sampling_speed(state)) is not None:
        parts.append(Text(f"sampled {speed:,.0f} tok/s"))
    separator = Text("  ·  " if width >= 110 else " · ", style=variables.get("quiet", ""))
    for part in parts:
        if text.cell_len + separator.cell_len + part.cell_len <= width:
            text.append_text(separator).append_text(part)
    return text


def phase(state: RunState) -> str:
    """What the engine does now, with progress where it can be counted."""
    now = state.phase
    if now is None:
        return ""
    return f"{now.name} {now.done:,}/{now.total:,}" if now.total else now.name


def bar(share: float, variables: Variables) -> Text:
    """A progress bar."""
    done = round(min(max(share, 0.0), 1.0) * BAR)
    text = Text("━" * done, style=variables.get("primary", ""))
    return text.append("━" * (BAR - done), style=variables.get("border-blurred", ""))


def health(look: Look, variables: Variables) -> Text:
    """The worst finding with its advice, and how many more there are; how a run has ended comes first."""
    end, found = look.state.end, look.findings
    if look.condition == "failed" and isinstance(end, RunFailed):
        first = Finding("error", one_line(end.message, 200), one_line(end.hint or "See the log.", 200))
    elif look.condition == "crashed":
        first = Finding(
            "error", "the engine died without a last word", "See the log; r on the list of runs resumes it."
        )
    elif found:
        first = found[0]
    else:
        words = phase(look.state) or "waiting for the engine"
        return Text(
            one_line(words, 200), style=variables.get("quiet", ""), no_wrap=True, overflow="ellipsis", end=""
        )
    mark, tone = LEVELS[first.level]
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    text.append(f"{mark} {first.title}", style=f"bold {variables.get(tone, '')}")
    text.append(f"  {first.advice}", style=variables.get("quiet", ""))
    return text.append(f"  (+{len(found) - 1})") if len(found) > 1 else text


def samples(state: RunState, variables: Variables) -> RenderableType:
    """What the model said before training beside what it says now."""
    every = list(state.samples)
    if not every:
        return Text("No samples yet: the model is asked before training, and again at each evaluation.")
    before, now = every[0], every[-1]
    parts: list[RenderableType] = [_headings(before, now, variables)]
    for number_, (old, new) in enumerate(zip(before.completions, now.completions, strict=False), 1):
        parts.append(_question(number_, old, new, variables, same=before is now))
    rollout = state.rollouts.last()
    if rollout is not None and rollout.best and rollout.worst:
        parts.append(Text(f"\nThe newest rollout, for step {rollout.step:,}", style="bold"))
        parts.append(_scored(rollout.best, rollout.worst, variables))
    return Group(*parts)


def _two_columns() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    return table


def _headings(before: Sample, now: Sample, variables: Variables) -> Table:
    table = _two_columns()
    quiet = variables.get("quiet", "")
    later = f"now (step {now.step:,})" if now is not before else "now: no later samples yet"
    table.add_row(Text(f"before training (step {before.step:,})", style=quiet), Text(later, style=quiet))
    return table


def _question(number_: int, old: Completion, new: Completion, variables: Variables, *, same: bool) -> Group:
    accent, quiet = variables.get("accent", ""), variables.get("quiet", "")
    title = Text(f"\n{number_}  ", style=quiet).append(clean(old.prompt.strip()), style=f"bold {accent}")
    table = _two_columns()
    table.add_row(_answer(old, quiet), Text("") if same else _answer(new, quiet))
    if old.chosen is not None:
        right = (
            Text(f"✘ rejected: {clean(old.rejected)}", style=quiet) if old.rejected is not None else Text("")
        )
        table.add_row(Text(f"✔ chosen: {clean(old.chosen)}", style=quiet), right)
    return Group(title, table)


def _answer(completion: Completion, quiet: str) -> Text:
    text = Text(clean(completion.completion.strip()) or "(nothing)")
    return text if completion.finished else text.append(" … cut off", style=quiet)


def _scored(best: Scored, worst: Scored, variables: Variables) -> Table:
    table = _two_columns()
    table.add_row(
        *(
            _one_scored(name, one, variables.get(tone, ""), variables.get("quiet", ""))
            for name, one, tone in (("best", best, "success"), ("worst", worst, "error"))
        )
    )
    return table


def _one_scored(name: str, one: Scored, tone: str, quiet: str) -> Text:
    rewards = ", ".join(f"{key} {number(value)}" for key, value in one.rewards.items())
    text = Text(f"{name}: {number(one.total)} ", style=tone).append(f"({rewards})\n", style=quiet)
    return text.append(clean(one.prompt.strip()) + "\n", style="bold").append(clean(one.completion.strip()))


def alerts(state: RunState, findings: Sequence[Finding], variables: Variables) -> RenderableType:
    """What looks odd now, and all that the engine has said, newest first."""
    rows: list[RenderableType] = []
    for finding in findings:
        mark, tone = LEVELS[finding.level]
        rows.append(_alert(mark, variables.get(tone, ""), finding.title, finding.advice, "now", variables))
    if isinstance(state.end, RunFailed):
        where = f" ({clean(state.end.where)})" if state.end.where else ""
        text = clean(f"{state.end.message}{where} {state.end.hint or ''}")
        rows.append(
            _alert("✘", variables.get("error", ""), "failed", text, f"step {state.end.step:,}", variables)
        )
    for alert in reversed(list(state.alerts)):
        mark, tone = LEVELS[alert.level]
        rows.append(
            _alert(
                mark, variables.get(tone, ""), alert.code, _words(alert), f"step {alert.step:,}", variables
            )
        )
    if not rows:
        return Text("No alerts.", style=variables.get("quiet", ""))
    return Group(*rows)


def _words(alert: Alert) -> str:
    rows = f" Rows: {few(alert.rows, 6)}." if alert.rows else ""
    return clean(alert.message + rows)


def _alert(mark: str, tone: str, title: str, text: str, when: str, variables: Variables) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(width=1)
    table.add_column(ratio=1)
    table.add_column(width=12, justify="right")
    table.add_row(
        Text(mark, style=tone),
        Text(title, style=f"bold {tone}"),
        Text(when, style=variables.get("quiet", "")),
    )
    table.add_row(Text(""), Text(text), Text(""))
    return table


def config(rows: Sequence[tuple[str, Any, str]], plan: Plan | None, variables: Variables) -> RenderableType:
    """Every key with its value and where that came from; above it, what the run was planned to need."""
    table = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style=f"bold {variables.get('quiet', '')}"
    )
    for heading in ("key", "value", "from"):
        table.add_column(heading, overflow="fold")
    for key, value, origin in rows:
        chosen = origin != "default"
        table.add_row(
            Text(key, style="bold" if chosen else ""),
            Text(clean("(unset)" if value is None else str(value))),
            Text(clean(origin), style=variables.get("accent" if chosen else "quiet", "")),
        )
    if plan is None:
        return table
    parts = ", ".join(f"{name} {size(count)}" for name, count in plan.parts.items() if count)
    words = f"planned: {size(plan.total)}" + (f" of {size(plan.available)}" if plan.available else "")
    return Group(
        Text(f"{words} ({plan.verdict})"), Text(f"{parts}\n", style=variables.get("quiet", "")), table
    )

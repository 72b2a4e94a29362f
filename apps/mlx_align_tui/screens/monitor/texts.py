"""What Monitor says besides curves, as Rich text. Pure functions of a look and of a theme's variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mlx_align.events import Alert, Completion, RunFailed, Sample, Scored
from mlx_align.run_state import RunState
from mlx_align_cli.display.facts import sampling_speed, total_steps
from mlx_align_cli.display.text import clean, duration, few, number, one_line, size
from mlx_align_tui.keymap import said
from mlx_align_tui.live.health import Finding
from mlx_align_tui.live.watching import Look
from mlx_align_tui.widgets.badge import colour, sign

Variables = Mapping[str, str]
Keys = Mapping[str, str]
"""Binding id -> keys, of those that were changed."""
BAR = 16
CLOSE = ("bar", "limit")
"""Figures that belong to the one before."""
LEAST_FIRST = ("bar", "limit", "sampled", "elapsed", "speed", "memory", "left", "phase")
"""In which order figures are left out where it is narrow."""
SHOWN_ALERTS = 100
"""More take long to lay out, and nobody reads them."""
LEVELS = {
    "good": ("✔", "success"),
    "info": ("·", "quiet"),
    "warning": ("!", "warning"),
    "error": ("✘", "error"),
}


def status(look: Look, variables: Variables, width: int) -> Text:
    """The line of state, progress, speed, memory and time; what says least is left out where it is narrow."""
    figures, quiet = _figures(look, variables), variables.get("quiet", "")
    text = _line(figures, Text("  ·  ", style=quiet))
    close = Text(" · ", style=quiet)
    for name in ("", *LEAST_FIRST):
        if text.cell_len <= width:
            break
        figures.pop(name, None)
        text = _line(figures, close)
    return text


def _line(figures: Mapping[str, Text], separator: Text) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    for name, figure in figures.items():
        if text:
            text.append_text(Text(" ") if name in CLOSE else separator)
        text.append_text(figure)
    return text


def _figures(look: Look, variables: Variables) -> dict[str, Text]:
    """What there is to say in the line of state, by name."""
    state, total, running = look.state, total_steps(look.state), look.condition == "running"
    tone, elapsed = colour(look.condition, dict(variables)), duration(look.pace.elapsed)
    figures = {"condition": Text(f"{sign(look.condition)} {look.condition}", style=tone)}
    figures["step"] = Text(f"step {state.step:,}" + (f"/{total:,}" if total else ""))
    if total:
        figures["bar"] = bar(state.step / total, variables)
    if running and state.phase is not None and state.phase.name != "training":
        figures["phase"] = Text(phase(state), style=variables.get("accent", ""))
    if running and look.pace.remaining is not None:
        figures["left"] = Text(f"{duration(look.pace.remaining)} left")
    figures["elapsed"] = Text(f"{elapsed} so far" if running else f"took {elapsed}")
    if look.pace.tokens_per_second:
        figures["speed"] = Text(f"{look.pace.tokens_per_second:,.0f} tok/s")
    if state.memory is not None and state.memory.peak:
        figures["memory"] = Text(size(state.memory.peak))
        if state.memory.limit:
            figures["limit"] = Text(f"of {size(state.memory.limit)}")
    if (speed := sampling_speed(state)) is not None:
        figures["sampled"] = Text(f"sampled {speed:,.0f} tok/s")
    return figures


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


def health(look: Look, variables: Variables, keys: Keys) -> Text:
    """The worst finding with its advice, and how many more there are; how a run has ended comes first."""
    found = look.findings
    first = ending(look) or (found[0] if found else None)
    if first is None:
        words = phase(look.state) or "waiting for the engine"
        return Text(one_line(words, 200), style=variables.get("quiet", ""))
    mark, tone = LEVELS[first.level]
    text = Text(f"{mark} {first.title}", style=f"bold {variables.get(tone, '')}")
    text = Text.assemble(text, (f"  {said(first.advice, keys, str)}", variables.get("quiet", "")))
    more = len(found) - (first in found)
    return text.append(f"  (+{more})") if more else text


def ending(look: Look) -> Finding | None:
    """What keeps a run from going on by itself, None where nothing does."""
    end = look.state.end
    if look.trouble:
        advice = "What is shown was read last; reading is tried again and again."
        return Finding("error", f"the run cannot be read: {one_line(look.trouble, 200)}", advice)
    if look.condition == "failed" and isinstance(end, RunFailed):
        advice = one_line(end.hint, 200) if end.hint else "<<monitor.log_tab>> shows the log."
        return Finding("error", one_line(end.message, 200), advice)
    if look.death is not None:
        resume = "<<monitor.log_tab>> shows the log, <<monitor.resume>> goes on from the last checkpoint."
        return Finding("error", look.death.message, f"{look.death.advice} {resume}".lstrip())
    return None


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


def alerts(look: Look, variables: Variables, keys: Keys) -> RenderableType:
    """How the run has ended, what looks odd now, and the newest of what the engine has said, newest first."""
    state, quiet = look.state, variables.get("quiet", "")
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(width=1)
    table.add_column(ratio=1)
    table.add_column(width=12, justify="right")

    def add(level: str, title: str, words: str, when: str) -> None:
        mark, name = LEVELS[level]
        tone = variables.get(name, "")
        table.add_row(Text(mark, style=tone), Text(title, style=f"bold {tone}"), Text(when, style=quiet))
        table.add_row(Text(""), Text(words), Text(""))

    if isinstance(state.end, RunFailed):
        where = f" ({clean(state.end.where)})" if state.end.where else ""
        words = clean(f"{state.end.message}{where} {state.end.hint or ''}")
        add("error", "failed", words, f"step {state.end.step:,}")
    elif (end := ending(look)) is not None:
        add(end.level, end.title, said(end.advice, keys, str), f"step {state.step:,}")
    for finding in look.findings:
        add(finding.level, finding.title, said(finding.advice, keys, str), "now")
    for alert in reversed(state.alerts.since(max(0, len(state.alerts) - SHOWN_ALERTS))):
        add(alert.level, alert.code, _words(alert), f"step {alert.step:,}")
    if not table.row_count:
        return Text("No alerts.", style=quiet)
    older = len(state.alerts) - SHOWN_ALERTS
    return Group(table, Text(f"and {older:,} more before", style=quiet)) if older > 0 else table


def _words(alert: Alert) -> str:
    rows = f" Rows: {few(alert.rows, 6)}." if alert.rows else ""
    return clean(alert.message + rows)


def needs(look: Look, variables: Variables) -> Text:
    """What the run was planned to need, what it has used, and how fast it is."""
    plan, memory, speed = look.state.plan, look.state.memory, look.pace.tokens_per_second
    quiet, lines = variables.get("quiet", ""), []
    if plan is not None:
        of = f" of {size(plan.available)}" if plan.available else ""
        parts = ", ".join(f"{name} {size(count)}" for name, count in plan.parts.items() if count)
        lines += [Text(f"planned: {size(plan.total)}{of} ({plan.verdict})"), Text(parts, style=quiet)]
    if memory is not None and memory.peak:
        of = f" of {size(memory.limit)}" if memory.limit else ""
        last = f", {size(memory.active)} when last measured" if memory.active else ""
        lines.append(Text(f"used: at most {size(memory.peak)}{of}{last}"))
    sampled = sampling_speed(look.state)
    speeds = [f"{speed:,.0f} tok/s trained"] if speed else []
    speeds += [f"{sampled:,.0f} tok/s sampled"] if sampled is not None else []
    lines += [Text("speed: " + ", ".join(speeds))] if speeds else []
    return Text("\n").join([*lines, Text("")]) if lines else Text("")


def config(rows: Sequence[tuple[str, Any, str]], variables: Variables) -> Table:
    """Every key with its value and where that came from."""
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
    return table

"""What a run came to, as Rich renderables: before and after, where the adapter is, what to type next."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from mlx_align.events import RunFailed, RunFinished, RunStopped
from mlx_align.run_state import RunState
from mlx_align.runs import RunDirectory
from mlx_align_cli.display import facts
from mlx_align_cli.display.answers import Comparison, comparisons, example_prompt, summary
from mlx_align_cli.display.text import clean, duration, one_line, plural
from mlx_align_cli.naming import program, run_word, short_path

NO_CHANGE = "finished, but no evaluation was better than the start: this adapter changes nothing."
PROMPTS = 5
"""How many prompts are shown with their answers."""
ANSWER_LINES = 6


def report(run: RunDirectory, state: RunState, width: int) -> RenderableType:
    """Everything that is said after the end."""
    pairs = comparisons(state)
    parts: list[RenderableType] = [comparison_panel(pairs, state, width)] if pairs else []
    parts.append(outcome(state))
    parts += [Text(line) for line in next_lines(run, state, width)]
    return Group(*parts)


def comparison_panel(pairs: Sequence[Comparison], state: RunState, width: int) -> RenderableType:
    """Answers to held-out prompts before training and now, side by side, and what they come to."""
    inner = width - 4
    half = (inner - 3) // 2
    after = Text(f"after step {pairs[0].step:,}", style="green")
    parts: list[RenderableType] = [_beside(Text("before training", style="yellow"), after, half)]
    for pair in pairs[:PROMPTS]:
        before = _answer(pair.before, pair.before_cut, half, "dim")
        parts.append(Text(one_line(pair.prompt, inner), style="bold"))
        parts.append(_beside(before, _answer(pair.after, pair.after_cut, half), half))
        parts.append(Rule(style="dim"))
    parts += [Text(line) for line in summary(state, pairs, min(PROMPTS, len(pairs)))]
    return Panel(
        Group(*parts),
        title=Text(" held-out prompts, answered ", style="bold"),
        title_align="left",
        border_style="cyan",
        width=width,
        padding=(0, 1),
    )


def _beside(left: Text, right: Text, half: int) -> RenderableType:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(width=half, overflow="fold")
    grid.add_column(width=half, overflow="fold")
    grid.add_row(left, right)
    return grid


def _answer(text: str, cut: bool, width: int, style: str = "") -> Text:
    """An answer of at most a few lines."""
    budget = width * ANSWER_LINES
    shown = clean(text).strip() or "(nothing)"
    lines = shown.splitlines()[:ANSWER_LINES]
    short = "\n".join(lines)[: budget - 2]
    shortened = cut or len(short) < len(shown)
    return Text(short + (" …" if shortened else ""), style=style)


def outcome(state: RunState) -> Text:
    """One line on how it ended."""
    took = duration(facts.pace(state).elapsed)
    match state.end:
        case RunFinished() if trouble(state):
            return Text(f"! {trouble(state)}", style="bold yellow")
        case RunFinished() as end:
            best = f"; the adapter is step {end.best_step:,}, the best" if end.best_step is not None else ""
            why = f" ({clean(end.reason)})" if end.reason not in ("", "completed") else ""
            return Text(f"✓ finished{why}: {plural(end.step, 'step')} in {took}{best}", style="bold green")
        case RunStopped() as end:
            saved = "a checkpoint is saved" if end.checkpoint else "nothing was trained yet"
            return Text(f"■ stopped at step {end.step:,} after {took}; {saved}", style="bold yellow")
        case RunFailed() as end:
            step = max(end.step, state.step)  # the engine counts a step only when it is done with it
            return Text(f"✗ failed at step {step:,} after {took}", style="bold red")
    return Text("")


def trouble(state: RunState) -> str | None:
    """Why a finished run has taught nothing, and what may help; None if it has taught something."""
    rollouts = list(state.rollouts)
    if rollouts and all(rollout.reward.mean is None for rollout in rollouts):
        return "finished, but no completion could be scored: nothing was learnt. The alerts say why."
    if rollouts and all(rollout.no_signal == 1.0 for rollout in rollouts):
        text = "finished, but in no group did the rewards differ: nothing was learnt."
        return f"{text} Try other prompts, or another reward."
    if not facts.changes_nothing(state):
        return None
    return f"{NO_CHANGE} Try {'more steps, or another' if rollouts else 'a smaller'} optim.lr."


def next_lines(run: RunDirectory, state: RunState, width: int, *, look_back: bool = True) -> list[str]:
    """Where the result is and what to type next, in lines that a shell takes as they stand.

    Args:
        run: the run.
        state: how it went.
        width: columns.
        look_back: whether the page of the run is among the things to type.
    """
    name = run_word(run)
    if isinstance(state.end, RunStopped):
        return ["", "Go on with", *_indented([f"{program()} runs resume {name}"], width)]
    if not isinstance(state.end, RunFinished) or trouble(state):
        return []
    adapter = adapter_path(run)
    *commands, back = facts.next_commands(name, adapter, run.env(), example_prompt(state))
    return [
        "",
        f"The adapter is in {clean(short_path(adapter))}",
        "",
        "Try it (--base: without the adapter), export it, use it with mlx-lm"
        + (", or look back:" if look_back else ":"),
        *_indented([*commands, back] if look_back else commands, width),
    ]


def adapter_path(run: RunDirectory) -> Path:
    """Where a finished run's adapter is, also after the folder of runs has been moved."""
    return run.adapter.resolve()


def _indented(commands: Sequence[str], width: int) -> list[str]:
    return [f"  {line}" for command in commands for line in shell_lines(command, width - 2)]


def shell_lines(command: str, width: int) -> list[str]:
    """A command broken into lines that a shell joins again; an option stays with its value."""
    words = [shlex.quote(word) for word in shlex.split(command)]
    groups = [words[0]]
    for before, word in itertools.pairwise(words):
        if before.startswith("--") and not word.startswith("--"):
            groups[-1] += f" {word}"
        else:
            groups.append(word)
    lines = [groups[0]]
    for group in groups[1:]:
        if len(lines[-1]) + len(group) + 3 > width:
            lines[-1] += " \\"
            lines.append(f"    {group}")
        else:
            lines[-1] += f" {group}"
    return lines

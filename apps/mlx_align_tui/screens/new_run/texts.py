"""What the steps Plan and Launch say."""

from __future__ import annotations

from mlx_align import methods
from mlx_align.config import RunConfig
from mlx_align.errors import AlignError, ConfigError
from mlx_align.settings import Resolved
from mlx_align_cli.commands.plan import MOMENTS, NAMES, PARTS
from mlx_align_cli.display.text import one_line, size
from mlx_align_tui.live.programs import Fit
from mlx_align_tui.plain import plain
from mlx_align_tui.screens.new_run.draft import CHOSEN, Draft
from mlx_align_tui.screens.new_run.rewards import text_of
from mlx_align_tui.widgets.fit_badge import fit_badge

KINDS = {"pair": "pairs", "completion": "answers", "prompt": "questions"}
"""What the data of a kind of row is called here."""
BAR = 14
"""Cells of the longest bar of a part of memory."""


def badge(state: Fit | AlignError | str) -> str:
    """The badge in the line at the top, as Textual markup.

    Args:
        state: a plan, why there is none, or what is being done.
    """
    if isinstance(state, Fit):
        return fit_badge(state.verdict, state.total, state.available)
    if isinstance(state, AlignError):
        where = (state.where or "").partition(" ")[0]
        key = f"{where} " if isinstance(state, ConfigError) and state.message.startswith("must ") else ""
        return f"[$error]✘[/] [$quiet]{plain(one_line(key + state.message, 60))}[/]"
    return f"[$quiet]{plain(state)}[/]"


def plan_text(state: Fit | AlignError | str) -> str:
    """The step Plan, as Textual markup."""
    if isinstance(state, str):
        return f"[$quiet]{plain(state)}[/]"
    if isinstance(state, AlignError):
        lines = [f"[$error]✘ {plain(state.message)}[/]"]
        lines += [f"[$quiet]at {plain(state.where)}[/]"] if state.where else []
        lines += [plain(state.hint)] if state.hint else []
        lines += ["", "[$quiet]<<new.plan>> plans again; it asks before a model is fetched.[/]"]
        return "\n".join(lines)
    moment = MOMENTS.get(state.moment, state.moment)
    lines = [f"{badge(state)}", f"[$quiet]most is needed {moment}[/]", ""]
    largest = max(state.parts.values(), default=1)
    for part, count in state.parts.items():
        bar = "█" * max(1, round(BAR * count / largest))
        about = PARTS.get(part, "")
        name = f"{NAMES.get(part, part):<17}{size(count):>9}"
        lines.append(f"{name}  [$primary]{bar:<{BAR}}[/] [$quiet]{about}[/]")
    return "\n".join(lines)


def remedy_text(state: Fit | AlignError | str) -> str:
    """What to change where a run does not fit well, as Textual markup; nothing where it fits."""
    if not isinstance(state, Fit) or state.verdict not in ("tight", "will not fit"):
        return ""
    return plain(state.remedy) + ("\n[$accent]<<new.use>>[/] uses this change" if state.settings else "")


def launch_text(draft: Draft, resolved: Resolved | None, state: Fit | AlignError | str) -> str:
    """The step Launch, as Textual markup."""
    method = methods.get(draft.method)
    rows = [
        ("method", f"{method.name}  [$quiet]{plain(method.title)}[/]"),
        ("model", plain(draft.model)),
        ("data", f"{plain(draft.data)}  [$quiet]{KINDS[method.rows]}[/]"),
    ]
    if resolved is not None:
        rows += [("length", length(resolved.config)), ("memory", badge(state))]
        yours = [(key, text_of(value)) for key, value, origin in resolved.items() if origin == "flag"]
        changed = [f"{key}={value}" for key, value in yours if key not in CHOSEN and value]
        rows += [("changed", plain(", ".join(changed)))] if changed else []
    if resolved is not None and resolved.config.rewards:
        scored = [f"{one.name} x {one.weight:g}" for one in resolved.config.rewards]
        rows.insert(3, ("rewards", plain(", ".join(scored))))
    lines = [f"[$quiet]{name:<9}[/]{value}" for name, value in rows]
    return "\n".join([*lines, "", _command(draft)])


def _command(draft: Draft) -> str:
    """The command, or why there is none."""
    try:
        return f"[$quiet]$[/] {plain(draft.command())}"
    except ConfigError as error:
        at = f"\n[$quiet]at {plain(draft.key_of(error))}, on the step Method[/]"
        return f"[$error]✘ {plain(error.message)}[/]{at}"


def length(config: RunConfig) -> str:
    """How long a run is, in words."""
    train = config.train
    passes = f"{train.steps:,} updates" if train.steps else f"{train.epochs:g} passes over the data"
    batch = f"{train.batch_size} rows" if train.batch_size else f"{train.tokens_per_batch:,} tokens"
    times = f" x {train.accumulate}" if train.accumulate > 1 else ""
    return f"{passes}, {batch}{times} at a time, rate {config.optim.lr:g}"

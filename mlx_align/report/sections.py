"""The parts of the page, each from what it shows to HTML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from mlx_align.config import RunConfig
from mlx_align.curves import series_of, svg
from mlx_align.events import Alert, Completion, Rollout, RunFailed, RunFinished, Sample, Scored
from mlx_align.export.provenance import base_name, last_part, without_folders
from mlx_align.report import facts
from mlx_align.report.facts import Export, Measure, measured
from mlx_align.report.markup import Markup, section, table, tag
from mlx_align.run_state import RunState
from mlx_align.settings import flatten
from mlx_align.units import size

TILES = 4
"""How many measures stand at the top."""
ENV_PATHS = ("model_folder", "data")
"""Keys of env.json that hold a path; `model` may hold one, or a hub id."""
ORIGINS = ("file ", "user config ")
"""The beginnings of the origins that end in a path; see `settings.gather`."""
SIGNS = {"info": "Note", "warning": "Warning", "error": "Error"}


def heading(name: str, state: RunState, condition: str, config: RunConfig, commit: str | None) -> Markup:
    """What this page is about, and how it ended; `commit` is the hub's of the base, if it has one."""
    total = f" of {state.started.total_steps:,}" if state.started else ""
    model = base_name(state.started.model if state.started else config.model.path, commit)
    return tag(
        "header",
        tag("div", "mlx-align report", class_="mark"),
        tag("h1", name),
        tag(
            "p",
            f"{config.method.name.upper()} on {model} · ",
            tag("span", condition, class_=condition),
            f" · step {state.step:,}{total}",
        ),
    )


def tiles(measures: list[Measure]) -> Markup:
    """The measures that say most, in large."""
    shown = [each for each in measures if each.after is not None][:TILES]
    return tag("div", *(_tile(each) for each in shown), class_="tiles") if shown else Markup("")


def _tile(measure: Measure) -> Markup:
    before = measured(measure.name, measure.before)
    return tag(
        "div",
        tag("span", _words(measure.name)),
        tag("b", measured(measure.name, measure.after)),
        tag("span", f"before: {before}"),
        class_="tile",
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def curves(state: RunState, name: str) -> Markup:
    """The picture of the run's curves."""
    series = series_of(state)
    if not series:
        return section("Curves", tag("p", "The run has taken no step yet.", class_="quiet"))
    return section("Curves", tag("div", Markup(svg(series, title=f"Curves of {name}")), class_="curves"))


def held_out(measures: list[Measure], state: RunState) -> Markup:
    """All measures on held-out rows."""
    last = facts.kept(state)
    if last is None:
        return Markup("")
    rows = [
        (_words(each.name), measured(each.name, each.before), measured(each.name, each.after))
        for each in measures
    ]
    which = "kept" if isinstance(state.end, RunFinished) else "last"
    head = ("measure", "before", f"{which}, step {last.step:,}")
    return section(f"On {last.rows:,} held-out rows", table(head, rows, "numbers"))


def samples(state: RunState) -> Markup:
    """What the model said before training beside what it said at last."""
    first, last = next(iter(state.samples), None), state.samples.last()
    if first is None or last is None:
        return Markup("")
    pairs = zip(first.completions, last.completions, strict=False)
    return section("What it says", *(_question(first, last, old, new) for old, new in pairs))


def _question(first: Sample, last: Sample, old: Completion, new: Completion) -> Markup:
    sides = [_answer(f"step {first.step:,}", old.completion, old.finished)]
    if last is not first:
        sides.append(_answer(f"step {last.step:,}", new.completion, new.finished))
    given = [("chosen", old.chosen), ("rejected", old.rejected)]
    data = [_answer(f"{name} in the data", said) for name, said in given if said is not None]
    return tag(
        "article",
        tag("div", old.prompt.strip(), class_="prompt said", dir="auto"),
        tag("div", *sides, class_="pair"),
        tag("div", *data, class_="pair data") if data else "",
        class_="card",
    )


def _answer(title: str, said: str, finished: bool = True) -> Markup:
    cut = "" if finished else tag("span", " … cut off", class_="quiet")
    return tag(
        "div", tag("h3", title), tag("div", said.strip() or "(nothing)", cut, class_="said", dir="auto")
    )


def rollout(state: RunState) -> Markup:
    """The best and the worst that was sampled last, where a run samples."""
    newest: Rollout | None = state.rollouts.last()
    if newest is None or newest.best is None or newest.worst is None:
        return Markup("")
    sides = (_scored("best", newest.best), _scored("worst", newest.worst))
    return section(f"Sampled for step {newest.step:,}", tag("article", *sides, class_="card pair"))


def _scored(which: str, one: Scored) -> Markup:
    rewards = ", ".join(f"{name} {facts.number(value)}" for name, value in one.rewards.items())
    return tag(
        "div",
        tag("h3", f"{which}: {facts.number(one.total)} ({rewards})"),
        tag("div", one.prompt.strip(), class_="prompt said", dir="auto"),
        tag("div", one.completion.strip() or "(nothing)", class_="said", dir="auto"),
    )


def alerts(state: RunState, condition: str) -> Markup:
    """How it failed if it did, and what the engine has warned of."""
    shown = [*_end(state, condition), *(_alert(alert) for alert in state.alerts)]
    return section("Alerts", *(shown or [tag("p", "There were none.", class_="quiet")]))


def _end(state: RunState, condition: str) -> Iterator[Markup]:
    if isinstance(state.end, RunFailed):
        words = " · ".join(part for part in (state.end.message, state.end.where, state.end.hint) if part)
        yield _noted("error", f"Failed at step {state.end.step:,}", words)
    elif condition == "crashed":
        yield _noted("error", "Crashed", "The engine died without a last word.")


def _alert(alert: Alert) -> Markup:
    rows = ", ".join(row.rsplit("/", 1)[-1] for row in alert.rows)
    text = f"{alert.message} Rows: {rows}." if rows else alert.message
    return _noted(alert.level, f"{SIGNS[alert.level]} at step {alert.step:,}: {alert.code}", text)


def _noted(level: str, title: str, words: str) -> Markup:
    return tag("div", tag("strong", title), tag("p", words), class_=f"alert {level}")


def exports(found: list[Export]) -> Markup:
    """What was made of the adapter; nothing at all where nothing was."""
    if not found:
        return Markup("")
    rows = [
        (each.target, tag("code", each.name), size(each.size),
         tag("span", each.verdict, class_="good" if each.verified else "warning"))
        for each in found
    ]  # fmt: skip
    return section("Exports", table(("target", "name", "size", "verification"), rows))


def training(state: RunState) -> Markup:
    """Where it ran, for how long, with how much memory and how many rows."""
    started, memory = state.started, state.memory
    if started is None:
        return Markup("")
    rows: list[tuple[object, object]] = [
        ("began", _when(state.first_t)),
        ("last heard of", _when(state.last_t)),
        ("device", f"{started.device} ({started.backend})"),
        ("rows", f"{started.train_rows:,} to train on, {started.valid_rows:,} held out"),
        ("trained parameters", f"{started.trainable_parameters:,}"),
        ("attempts", str(state.attempt)),
    ]
    if isinstance(state.end, RunFinished):
        rows.append(("time", f"{facts.duration(state.end.seconds)}; ended because: {state.end.reason}"))
    if memory is not None and memory.peak:
        rows.append(("memory", f"at most {size(memory.peak)}"))
    return section("Training", table((), rows, "facts"))


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def configuration(config: RunConfig, env: Mapping[str, Any]) -> Markup:
    """Every key with its value and where that came from; what somebody chose stands out."""
    values, origins = flatten(without_folders(config, env.get("commit"))), env.get("origins", {})
    rows = []
    for key, value in values.items():
        origin = str(origins.get(key, "default"))
        kind = "" if origin == "default" else "chosen-here"
        rows.append((tag("code", key, class_=kind), tag("code", _value(value)), _short(origin)))
    return section("Configuration", table(("key", "value", "from"), rows))


def _value(value: Any) -> str:
    return (
        "(unset)"
        if value is None
        else value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False)
    )


def _short(origin: str) -> str:
    """An origin such as "file /home/me/my runs/a.toml" without the folder."""
    kind = next((kind for kind in ORIGINS if origin.startswith(kind)), None)
    return origin if kind is None else kind + last_part(origin.removeprefix(kind))


def provenance(env: Mapping[str, Any], run: str) -> Markup:
    """What it was made of, so that it can be made again."""
    known = {key: value for key, value in env.items() if key != "origins"}
    cut = {key: last_part(known[key]) for key in ENV_PATHS if isinstance(known.get(key), str)}
    if isinstance(known.get("model"), str):
        cut["model"] = base_name(known["model"], known.get("commit"))
    rows = [("run", tag("code", run))]
    rows += [
        (_words(key), tag("code", _value(value)))
        for key, value in flatten({**known, **cut}).items()
        if value is not None
    ]
    return section("Provenance", table((), rows, "facts"))

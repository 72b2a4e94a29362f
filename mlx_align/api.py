"""The engine's public face: what the apps and a Python script call.

import mlx_align
run = mlx_align.align("orpo", model="tiny-chat", data="sample", settings={"train.steps": 100})
print(run.adapter)
mlx_align.export_run(run, to="gguf", type="q8_0")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlx_align import backends, launched, methods
from mlx_align.config import RunConfig
from mlx_align.data import Dataset, load_dataset
from mlx_align.engine import exporting
from mlx_align.engine.data import data_path
from mlx_align.engine.exporting import Exported, Exporter, Options, Verification
from mlx_align.engine.launch import Engine, check_resumable, launch
from mlx_align.engine.planning import Forecast, Planner, forecast
from mlx_align.engine.preparing import objective_of, refuse_dropout, tokenized
from mlx_align.engine.tokenizer import load_tokenizer
from mlx_align.errors import AlignError, ConfigError, InterruptedRunError, UsageError, error_class
from mlx_align.events import Event, RunFailed, RunStopped
from mlx_align.hub import ModelSource, outline, resolve_model
from mlx_align.paths import typed, typed_new
from mlx_align.rewards import anywhere, check_rows, make_specs
from mlx_align.runs import RunDirectory, create
from mlx_align.settings import Resolved, cache_path, gather, resolve


def prepare(resolved: Resolved) -> RunDirectory:
    """Read every row of the data and find the model, and only then make the run directory.

    A model that must be fetched is: how much that is, and where to, stands on stderr first.

    What needs the tokenizer (chat template, special tokens, lengths) the engine checks before it trains.

    Raises:
        ConfigError: `runs.dir` or `runs.cache` is in nobody's home; see `typed_new`.
        UsageError: the model cannot be found or used.
        DataError: a row or a file cannot be used.
        AlignError: the run directory cannot be written.
    """
    config = resolved.config
    root = typed_new(config.runs.dir, "runs.dir")
    cache_path(config)  # told now, and not once the engine needs it
    dataset = _dataset(config)
    _check_start(config)
    source = resolve_model(config.model.path, config.model.revision)  # last: fetching one may take hours
    rewards = tuple(one.model_copy(update=anywhere(one.model_dump())) for one in config.rewards)
    config = config.model_copy(update={"rewards": rewards})
    env = {
        **_model_facts(source),
        "data": str(data_path(config).resolve()),
        "data_fingerprint": dataset.fingerprint,
        "origins": resolved.origins,
    }
    return create(root, config, env)


def estimate(resolved: Resolved) -> Forecast:
    """What a run would need of this machine's memory. It reads every row and the model's headers, no weights.

    Of a model of the hub that is not in the cache no weights are fetched either; see `hub.outline`.

    Raises:
        UsageError: the model cannot be found or planned, or the backend's habits are not known.
        DataError: a row or a file cannot be used.
    """
    config = resolved.config
    with outline(config.model.path, config.model.revision) as source:
        dataset = _dataset(config)
        _check_start(config)
        train, valid = tokenized(config, dataset, load_tokenizer(source.folder))
        backend = backends.create(config.backend)
        planner = Planner.of(backend, source.folder, train.examples, valid.examples, objective_of(config))
    if planner is None:
        raise UsageError(
            "only the mlx backend's memory can be planned", where=f"backend.name = {config.backend.name}"
        )
    return forecast(planner, config)


def _dataset(config: RunConfig) -> Dataset:
    """All rows, and for the rewards of a method that samples, whether they can be computed of them."""
    dataset = load_dataset(
        data_path(config),
        methods.get(config.method.name).rows,
        valid_fraction=config.data.valid_fraction,
        seed=config.train.seed,
    )
    specs = make_specs([reward.model_dump() for reward in config.rewards])
    check_rows(specs, [*dataset.train, *dataset.valid])
    return dataset


def _check_start(config: RunConfig) -> None:
    """Refuse a starting adapter that is not there, or that the method cannot begin with."""
    start = config.adapter.start
    if start is None:
        return
    if not (typed(start) / "adapter_config.json").is_file():
        raise UsageError(
            "there is no adapter in mlx-lm's format",
            where=f"adapter.start = {start}",
            hint="Give a folder with adapter_config.json and adapters.safetensors, such as a run's adapter/.",
        )
    refuse_dropout(config, typed(start))


def _model_facts(source: ModelSource) -> dict[str, Any]:
    return {"model": source.name, "model_folder": str(source.folder.resolve()), "commit": source.commit}


def _resolved(
    method: str,
    model: str | None,
    data: str | Path | None,
    settings: Mapping[str, Any] | None,
    preset: str | None,
) -> Resolved:
    """The checked configuration of a call from Python; its arguments are what flags are to a command.

    Raises:
        ConfigError: a key or a value is wrong, or the model or the data are named twice.
    """
    values = dict(settings or {})
    for key, name, given in (("model.path", "model", model), ("data.path", "data", data)):
        if given is None:
            continue
        if key in values:
            raise ConfigError(
                f"'{key}' is set twice, by the argument '{name}' and in settings",
                where=method,
                hint="Set it once.",
            )
        values[key] = str(given)
    return resolve(gather(method, flags=values, preset=preset))


def plan(
    method: str,
    model: str | None = None,
    data: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> Forecast:
    """What `align`, called in the same way, would need of this machine's memory; no weights are loaded.

    Args:
        method: as with `align`, and so are the others.
        model: see there.
        data: see there.
        settings: see there.
        preset: see there.

    Returns:
        its `plan` has the bytes by part, their `total` and the `verdict`; its `advice`, what to change.

    Raises:
        UsageError: the model cannot be found or planned, or a setting is wrong.
        DataError: a row or a file cannot be used.
    """
    return estimate(_resolved(method, model, data, settings, preset))


def align(
    method: str,
    model: str | None = None,
    data: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> RunDirectory:
    """Train an adapter and wait for it.

    Args:
        method: "sft", "orpo", "dpo", "simpo" or "grpo".
        model: "tiny-chat", a local folder or a Hugging Face id; None for the one that `settings`, the
            environment or your own config.toml names, else "tiny-chat".
        data: "sample", a .jsonl file or a folder with train.jsonl; None likewise, else "sample".
        settings: dotted configuration keys, as with `--set`.
        preset: "quick", "balanced" or "thorough"; for grpo also "small-mac" or "r1".
        on_event: called with every event of the run.

    Returns:
        the finished run; `run.adapter` is the adapter's folder, `run.state()` all that happened.

    Raises:
        AlignError: whatever ended the run early. Once it has begun `error.run` is the run, and `resume` goes
            on with it. An interrupt (Ctrl-C) first asks the run to save and stop, and notes which it was.
    """
    _refuse_ranks(method)
    return _train(prepare(_resolved(method, model, data, settings, preset)), on_event)


def resume(
    run: RunDirectory,
    *,
    backend: str | None = None,
    device: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> RunDirectory:
    """Go on with a stopped, failed or crashed run from its last checkpoint, and wait for it.

    Args:
        run: `error.run` of what `align` raised, or `mlx_align.RunDirectory(Path("runs/..."))`.
        backend: "mlx" or "torch"; None: as before. This and `device` are written to its configuration.
        device: "auto", "cpu", "gpu", "cuda" or "mps"; None: as before.
        on_event: called with every event from here on.

    Returns:
        the finished run.

    Raises:
        UsageError: there is no such run, an engine works on it, it has finished, or it cannot go on there.
        AlignError: as with `align`.
    """
    _refuse_ranks("runs resume")
    check_resumable(run)
    if moved := {key: value for key, value in (("name", backend), ("device", device)) if value is not None}:
        run.move(moved)
    return _train(run, on_event)


def _refuse_ranks(command: str) -> None:
    if launched.rank() is not None:
        raise UsageError(
            "a script cannot train on several ranks",
            where="mlx.launch",
            hint=f"Start the program instead: `mlx.launch ... mlx-align {command} ...`.",
        )


def _train(run: RunDirectory, on_event: Callable[[Event], None] | None) -> RunDirectory:
    """Have an engine work on a run, and wait for its end."""
    try:
        last = _last_event(launch(run), on_event)
        if isinstance(last, RunStopped):
            raise InterruptedRunError(f"stopped at step {last.step}", where=run.name)
        if isinstance(last, RunFailed):
            raise error_class(last.exit_code)(last.message, where=last.where, hint=last.hint)
    except AlignError as error:
        error.run = run
        raise
    except BaseException as error:
        error.add_note(f"The run was asked to save and stop; mlx_align.resume goes on with it: {run.path}")
        raise
    return run


def _last_event(engine: Engine, on_event: Callable[[Event], None] | None) -> Event | None:
    last: Event | None = None
    try:
        for last in engine.events():
            if on_event is not None:
                on_event(last)
    except BaseException:  # Ctrl-C, or the caller's own on_event: nobody would watch the run any more
        engine.stop()
        raise
    return last


def export_run(
    run: RunDirectory,
    to: str,
    out: Path | str | None = None,
    *,
    checkpoint: str | None = None,
    progress: Callable[[str, str], None] = lambda stage, detail: None,
    **options: Any,
) -> Exported:
    """Bring a run's model to where it is used, and see there that it is the model that was trained.

    Args:
        run: what `align` returned, or `mlx_align.RunDirectory(Path("runs/..."))`.
        to: "mlx", "peft", "gguf-adapter", "gguf", "hf", "mlx-fused", "ollama", "lmstudio" or "hub".
        out: the folder or file to make; None: inside the run.
        checkpoint: a checkpoint's name, or "best"; None: the finished adapter, else the best checkpoint, else
            (or where the best is the untrained model) the newest.
        progress: called with what begins and what it is about.
        options: the fields of `engine.exporting.Options`, such as type="q8_0" or verify=False.

    Raises:
        UsageError: an option does not belong to the target, the format cannot express the adapter, or `out`
            is in nobody's home.
        AlignError: the export is not the model that was trained; nothing is left of it.
    """
    return Exporter(run, checkpoint, progress).export(
        to, None if out is None else typed_new(str(out), "out"), Options(**options)
    )


def verify_export(path: Path | str, *, base: str | None = None, base_gguf: str | None = None) -> Verification:
    """Compare a finished export with the evidence that lies beside it.

    Args:
        path: the folder or file.
        base: the base model of an adapter, where it cannot be found by itself.
        base_gguf: a GGUF of the base, for an adapter in GGUF.

    Raises:
        UsageError: it is not an export of ours, or its base cannot be found.
        AlignError: it is not the model that was trained.
    """
    return exporting.verify_again(typed(str(path)), base=base, base_gguf=base_gguf)

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

from mlx_align import backends, embedded, launched, methods
from mlx_align.config import RunConfig
from mlx_align.data import Dataset, load_dataset
from mlx_align.engine import exporting
from mlx_align.engine.data import data_path
from mlx_align.engine.exporting import Exported, Exporter, Options, Verification
from mlx_align.engine.launch import launch
from mlx_align.engine.planning import Forecast, Planner, forecast
from mlx_align.engine.preparing import objective_of, tokenized
from mlx_align.engine.tokenizer import load_tokenizer
from mlx_align.errors import InterruptedRunError, UsageError, error_class
from mlx_align.events import Event, RunFailed, RunStopped
from mlx_align.hub import ModelSource, resolve_model
from mlx_align.paths import typed, typed_new
from mlx_align.rewards import anywhere, check_rows, make_specs
from mlx_align.runs import RunDirectory, create
from mlx_align.settings import Resolved, cache_path, gather, resolve


def prepare(resolved: Resolved) -> RunDirectory:
    """Find the model and read every row of the data, and only then make the run directory.

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
    source = resolve_model(config.model.path, config.model.revision)
    dataset = _dataset(config)
    _check_start(config)
    rewards = tuple(one.model_copy(update=anywhere(one.model_dump())) for one in config.rewards)
    config = config.model_copy(update={"rewards": rewards})
    env = {
        **_model_facts(source),
        "data": str(data_path(config).resolve()),
        "data_fingerprint": dataset.fingerprint,
        "origins": resolved.origins,
    }
    return create(root, config, env)


def plan(resolved: Resolved) -> Forecast:
    """What a run would need of this machine's memory. It reads every row and the model's headers, no weights.

    Raises:
        UsageError: the model cannot be found or planned, or the backend's habits are not known.
        DataError: a row or a file cannot be used.
    """
    config = resolved.config
    source = resolve_model(config.model.path, config.model.revision)
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
    start = config.adapter.start
    if start is not None and not (typed(start) / "adapter_config.json").is_file():
        raise UsageError(
            "there is no adapter in mlx-lm's format",
            where=f"adapter.start = {start}",
            hint="Give a folder with adapter_config.json and adapters.safetensors, such as a run's adapter/.",
        )


def _model_facts(source: ModelSource) -> dict[str, Any]:
    return {"model": source.name, "model_folder": str(source.folder.resolve()), "commit": source.commit}


def align(
    method: str,
    model: str = embedded.TINY_CHAT,
    data: str | Path = embedded.SAMPLE,
    *,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> RunDirectory:
    """Train an adapter and wait for it.

    Args:
        method: "sft", "orpo", "dpo", "simpo" or "grpo".
        model: "tiny-chat", a local folder or a Hugging Face id.
        data: "sample", a .jsonl file or a folder with train.jsonl.
        settings: dotted configuration keys, as with `--set`.
        preset: "quick", "balanced" or "thorough"; for grpo also "small-mac" or "r1".
        on_event: called with every event of the run.

    Returns:
        the finished run; `run.adapter` is the adapter's folder, `run.state()` all that happened.

    Raises:
        AlignError: whatever ended the run early. An interrupt (Ctrl-C) first asks the run to save and stop.
    """
    if launched.rank() is not None:
        raise UsageError(
            "a script cannot train on several ranks",
            where="mlx.launch",
            hint="Start the program instead: `mlx.launch ... mlx-align " + method + " ...`.",
        )
    flags = {**(settings or {}), "model.path": model, "data.path": str(data)}
    run = prepare(resolve(gather(method, flags=flags, preset=preset)))
    last: Event | None = None
    engine = launch(run)
    try:
        for last in engine.events():
            if on_event is not None:
                on_event(last)
    except BaseException:  # Ctrl-C, or the caller's own on_event: nobody would watch the run any more
        engine.stop()
        raise
    if isinstance(last, RunStopped):
        raise InterruptedRunError(f"stopped at step {last.step}", where=run.name)
    if isinstance(last, RunFailed):
        raise error_class(last.exit_code)(last.message, where=last.where, hint=last.hint)
    return run


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
        run: what `align` returned, or `RunDirectory(path)`.
        to: "mlx", "peft", "gguf-adapter", "gguf", "hf", "mlx-fused", "ollama", "lmstudio" or "hub".
        out: the folder or file to make; None: inside the run.
        checkpoint: a checkpoint's name, or "best"; None: the finished adapter.
        progress: called with what begins and what it is about.
        options: the fields of `engine.exporting.Options`, such as type="q8_0" or verify=False.

    Raises:
        UsageError: an option does not belong to the target, or the format cannot express the adapter.
        AlignError: the export is not the model that was trained; nothing is left of it.
    """
    return Exporter(run, checkpoint, progress).export(
        to, None if out is None else Path(out), Options(**options)
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
    return exporting.verify_again(Path(path), base=base, base_gguf=base_gguf)

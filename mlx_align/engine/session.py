"""One attempt at a run, from a directory to a trained adapter: load, prepare, train, finish."""

from __future__ import annotations

import math
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlx_align import __version__, backends, methods
from mlx_align.backends.base import Backend, Objective, Policy
from mlx_align.config import RunConfig
from mlx_align.data import ChatTokenizer, Dataset, Tokenized, lint, load_dataset, tokenize_rows
from mlx_align.engine import reference
from mlx_align.engine.data import RunData, fingerprint
from mlx_align.engine.evaluation import spread
from mlx_align.engine.reporter import Reporter
from mlx_align.engine.state import TrainerState
from mlx_align.engine.tokenizer import load_tokenizer
from mlx_align.engine.trainer import Outcome, Trainer
from mlx_align.errors import AlignError, DataError, InterruptedRunError
from mlx_align.events import RunFinished, RunStarted, RunStopped
from mlx_align.runs import STOP, Checkpoints, RunDirectory, Saved
from mlx_align.runs.atomic import write_json
from mlx_align.runs.checkpoints import export_adapter

REFERENCE = "reference"
FEW = 20
"""Fewer held-out rows than this say little: one row is more than five points of accuracy."""


class Session:
    """What one attempt works with.

    Args:
        run: the run; its newest checkpoint, if it has one, is where the attempt begins.
        report: writes events.
    """

    def __init__(self, run: RunDirectory, report: Reporter) -> None:
        self.run, self.report = run, report
        self.config: RunConfig = run.config()
        latest = run.checkpoints().latest()
        self.resumed: Saved | None = None if latest is None else Checkpoints.load(latest)
        self.total_steps = 0

    def work(self) -> None:
        """Train to the end, or to a requested stop.

        Raises:
            InterruptedRunError: it was stopped on request; the checkpoint is saved.
            AlignError: whatever else ended it.
        """
        self.report.phase("loading", self.config.model.path)
        backend = backends.create(self.config.backend)
        tokenizer = load_tokenizer(Path(self.run.env()["model_folder"]))
        data = self._data(tokenizer)
        policy = self._policy(backend)
        state = self._begin(backend, policy, data)
        self._reference(policy, data)
        if self.resumed is not None:
            policy.load_adapter_state(self.resumed.adapter)
            policy.load_training_state(self.resumed.training)
        trainer = Trainer(
            policy,
            data,
            tokenizer,
            self.config,
            state=state,
            report=self.report,
            control=self.run.control,
            checkpoints=self.run.checkpoints(self.config.checkpoint.keep),
            on_save=lambda state: self._summary("running", state),
        )
        outcome = trainer.run()
        self._end(outcome, trainer.state)

    # Preparing

    def _data(self, tokenizer: ChatTokenizer) -> RunData:
        config, method = self.config, methods.get(self.config.method.name)
        env = self.run.env()
        dataset = load_dataset(
            Path(env["data"]),
            method.rows,
            valid_fraction=config.data.valid_fraction,
            seed=config.train.seed,
        )
        if dataset.fingerprint != env["data_fingerprint"]:
            raise DataError(
                "the data has changed since this run was made",
                where=env["data"],
                hint="Put the data back as it was, or start a new run.",
            )
        self.report.phase("preparing", dataset.description)
        objective = Objective(method, method.hyperparameters(**config.method.hyperparameters))
        limits: dict[str, Any] = {
            "max_length": config.data.max_length,
            "too_long": config.data.too_long,
        }
        train = tokenize_rows(dataset.train, tokenizer, **limits)
        valid = tokenize_rows(dataset.valid, tokenizer, **limits)
        self._same_tokens(fingerprint(train.examples + valid.examples))
        if self.resumed is None:
            self._lint(dataset, train, valid)
        return RunData(train.examples, spread(valid.examples, config.eval.rows), config.train, objective)

    def _same_tokens(self, tokens: str) -> None:
        """A resume must see the same tokens, though a template may write the date or a file be exchanged."""
        env = self.run.env()
        if env.setdefault("tokens_fingerprint", tokens) != tokens:
            raise DataError(
                "the same rows give other tokens than when this run began",
                where=env["model_folder"],
                hint="The tokenizer or its chat template has changed (some write the date): start a new run.",
            )
        write_json(self.run.path / "env.json", env)

    def _lint(self, dataset: Dataset, train: Tokenized, valid: Tokenized) -> None:
        limit = self.config.data.max_length
        if dropped := train.dropped + valid.dropped:
            text = f"{len(dropped)} rows are longer than data.max_length = {limit} tokens and were left out."
            self.report.alert("too-long", text, rows=dropped)
        if truncated := train.truncated + valid.truncated:
            text = f"{len(truncated)} prompts lost their beginning to fit data.max_length = {limit} tokens."
            self.report.alert("truncated", text, rows=truncated)
        if dataset.leaked:
            text = (
                f"{dataset.leaked} held-out prompts are in the training data too: evaluation looks too good."
            )
            self.report.alert("leak", text)
        if len(train.examples) < self.config.train.batch_size:
            text = f"There are only {len(train.examples)} rows: every batch is smaller than train.batch_size."
            self.report.alert("few-rows", text)
        if len(valid.examples) < FEW:
            text = f"Evaluation stands on {len(valid.examples)} held-out rows: its figures are rough."
            self.report.alert("few-held-out", text)
        for finding in lint(dataset.train, train):
            self.report.alert(finding.code, finding.message, rows=finding.rows)

    def _policy(self, backend: Backend) -> Policy:
        config = self.config
        if config.adapter.start is not None:
            # A copy in the run directory: the reference must not change if the original does.
            kept = self.run.path / "start"
            if not kept.exists():
                export_adapter(Path(config.adapter.start).expanduser(), kept)
            config = config.model_copy(
                update={"adapter": config.adapter.model_copy(update={"start": str(kept)})}
            )
        folder = Path(self.run.env()["model_folder"])
        return backend.load_policy(folder, config.adapter, config.optim, config.train.seed)

    def _begin(self, backend: Backend, policy: Policy, data: RunData) -> TrainerState:
        state = TrainerState() if self.resumed is None else TrainerState.from_json(self.resumed.trainer)
        self.total_steps = data.total_steps
        if state.best_checkpoint and not (self.run.path / "checkpoints" / state.best_checkpoint).is_dir():
            state.best_checkpoint = state.best_step = state.best_value = None  # removed: find a new best
        self.report(
            RunStarted(
                method=self.config.method.name,
                model=self.config.model.path,
                data=self.config.data.path,
                backend=self.config.backend.name,
                device=backend.device,
                pid=os.getpid(),
                total_steps=data.total_steps,
                train_rows=len(data.train),
                valid_rows=len(data.valid),
                trainable_parameters=policy.trainable_parameters(),
                resumed_from=None if self.resumed is None else state.step,
            )
        )
        env = {**self.run.env(), "versions": versions(backend), "device": backend.device}
        write_json(self.run.path / "env.json", env)
        self._summary("running", state)
        if advice := backend.advice():
            self.report.alert("slow-machine", advice, level="info")
        return state

    def _reference(self, policy: Policy, data: RunData) -> None:
        """Score held-out rows (for the KL estimate), and training rows where the loss needs them."""
        folder = self.run.path / REFERENCE
        if not folder.exists():
            self.report.phase("reference", "scoring rows with the model as it starts")
            progress = self.report.progress("reference")

            def watched(done: int, total: int) -> None:
                progress(done, total)
                if self.run.control.requested(STOP):
                    self.run.control.clear(STOP)
                    self._summary("stopped", TrainerState())
                    self.report(RunStopped(step=0, checkpoint=""))
                    raise InterruptedRunError("stopped before the first step")

            options: dict[str, Any] = {
                "batch_size": self.config.train.batch_size,
                "scores_prompt": data.objective.method.scores_prompt(data.objective.hp),
                "progress": watched,
            }
            parts = {"valid": reference.reference_logps(policy, data.valid, **options)}
            if data.objective.method.needs_reference:
                parts["train"] = reference.reference_logps(policy, data.train, **options)
            reference.save(folder, **parts)
        data.valid_ref = reference.load(folder, "valid", data.valid)
        if data.objective.method.needs_reference:
            data.train_ref = reference.load(folder, "train", data.train)

    # Finishing

    def _end(self, outcome: Outcome, state: TrainerState) -> None:
        checkpoints = self.run.checkpoints(self.config.checkpoint.keep)
        latest = checkpoints.latest()
        if latest is None:
            raise AlignError("no checkpoint was saved", where=str(self.run.path))
        if outcome == "stopped":
            self.run.control.clear(STOP)
            self._summary("stopped", state)
            self.report(RunStopped(step=state.step, checkpoint=f"checkpoints/{latest.name}"))
            raise InterruptedRunError(f"stopped at step {state.step}")
        best = latest if state.best_checkpoint is None else latest.with_name(state.best_checkpoint)
        self.report.phase("saving")
        export_adapter(best, self.run.adapter)
        self._summary("finished", state)
        if state.best_step == 0:
            self.report.alert(
                "no-improvement",
                "No evaluation was better than the start: the kept adapter is the one before training. "
                "A smaller optim.lr may help.",
                step=state.step,
            )
        self.report(
            RunFinished(
                step=state.step,
                reason=outcome,
                adapter=self.run.adapter.name,
                best_step=state.best_step,
                seconds=state.seconds,
            )
        )

    def _summary(self, status: str, state: TrainerState) -> None:
        self.run.write_summary(
            status=status,
            method=self.config.method.name,
            model=self.config.model.path,
            step=state.step,
            total_steps=self.total_steps,
            metrics=finite(state.last_metrics),
        )


def versions(backend: Backend) -> dict[str, str]:
    """Versions of what the result depends on."""
    return {
        "mlx-align": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "transformers": version("transformers"),
        **backend.versions(),
    }


def finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """The same metrics, None for those that JSON cannot say."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}

"""One attempt at a run, from a directory to a trained adapter: load, prepare, train, finish."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from mlx_align import __version__, backends
from mlx_align.backends.base import ALONE, Backend, Objective, Policy, World
from mlx_align.config import RunConfig
from mlx_align.data import ChatTokenizer, Dataset, Example, load_dataset
from mlx_align.digests import Digests, files_of_adapter, files_of_model
from mlx_align.engine import positions, preparing
from mlx_align.engine.data import RunData, fingerprint
from mlx_align.engine.evaluation import spread
from mlx_align.engine.feed import Feed
from mlx_align.engine.planning import Planner, preflight
from mlx_align.engine.ranks import SharedControl, agree, settle, together
from mlx_align.engine.reference import Reference
from mlx_align.engine.reference_cache import ReferenceCache, Trouble, policy_digest
from mlx_align.engine.reporter import Reporter
from mlx_align.engine.rollouts import Judges, RolloutData, Sampler, sources
from mlx_align.engine.state import TrainerState, Window
from mlx_align.engine.tokenizer import load_tokenizer
from mlx_align.engine.trainer import Outcome, Trainer
from mlx_align.errors import AlignError, DataError, InterruptedRunError, UsageError
from mlx_align.events import RunFinished, RunStarted, RunStopped
from mlx_align.paths import typed
from mlx_align.rewards import Scorer, Spec, Tools, make_specs
from mlx_align.runs import STOP, Checkpoints, RunDirectory, Saved
from mlx_align.runs.atomic import write_json
from mlx_align.runs.checkpoints import export_adapter
from mlx_align.runs.shards import Shards
from mlx_align.settings import cache_path


class Session:
    """What one attempt works with.

    Args:
        run: the run; its newest checkpoint, if it has one, is where the attempt begins.
        report: writes events.
        world: the ranks that work on it together; each has a directory of its own, and rank 0 the run's.
    """

    def __init__(self, run: RunDirectory, report: Reporter, world: World = ALONE) -> None:
        self.run, self.report, self.world = run, report, world
        self.control = SharedControl(run.control.folder, world)
        self.config: RunConfig = run.config()
        latest = run.checkpoints().latest()
        self.resumed: Saved | None = None if latest is None else Checkpoints.load(latest)
        self.total_steps = self._longest = 0
        self._cache = cache_path(self.config)
        self._trouble = Trouble(self._cache, report)
        self._digests = Digests(self._cache / "digests", self._trouble)

    def work(self) -> None:
        """Train to the end, or to a requested stop.

        Raises:
            InterruptedRunError: it was stopped on request; the checkpoint is saved.
            AlignError: whatever else ended it.
        """
        with ExitStack() as held:
            outcome, state = self._train(held)
        self._end(outcome, state)

    def _train(self, held: ExitStack) -> tuple[Outcome, TrainerState]:
        """Everything but the end; what is to be closed before that is given to `held`."""
        self.report.phase("loading", self.config.model.path)
        with together(self.world):
            settle(self.run, self.world)
            backend = backends.create(self.config.backend)
            # A template that writes the date writes the run's, on whichever day an attempt is made.
            tokenizer = load_tokenizer(Path(self.run.env()["model_folder"]), self.run.made)
            train, valid = self._rows(tokenizer)
            self._preflight(backend, train, valid)
            weights = self._weights()
            data = self._data(backend, tokenizer, train, valid, held)
            policy = self._policy(backend)
            self._settled(policy, valid)
            policy.join(self.world)
        self._same_on_all_ranks(policy, weights)
        state = self._begin(backend, policy, data)
        if isinstance(data, RunData):
            self._reference(backend, policy, weights, data, state)
        elif isinstance(data, RolloutData):
            data.begin(policy)
        if self.resumed is not None:
            policy.load_adapter_state(self.resumed.adapter)
            policy.load_training_state(self.resumed.training)
            data.restore(self.resumed.training)
        if self.world.rank != 0:  # an open window's sums are in the checkpoint, and rank 0 goes on with them
            policy.discard()
            state.window = Window()
        trainer = self._trainer(policy, data, tokenizer, state)
        return trainer.run(), trainer.state

    def _trainer(self, policy: Policy, data: Feed, tokenizer: ChatTokenizer, state: TrainerState) -> Trainer:
        return Trainer(
            policy,
            data,
            tokenizer,
            self.config,
            state=state,
            report=self.report,
            control=self.control,
            checkpoints=self.run.checkpoints(self.config.checkpoint.keep),
            on_save=lambda state: self._summary("running", state),
            world=self.world,
        )

    # Preparing

    def _rows(self, tokenizer: ChatTokenizer) -> tuple[Sequence[Example], Sequence[Example]]:
        """The rows to train on, and those that are held out."""
        config = self.config
        dataset = self._dataset(preparing.objective_of(config))
        self.report.phase("preparing", dataset.description)
        train, valid = preparing.tokenized(config, dataset, tokenizer)
        self._same(
            "tokens_fingerprint",
            fingerprint(train.examples + valid.examples),
            "the same rows give other tokens than when this run began",
            self.run.env()["model_folder"],
            "The tokenizer or its chat template has changed, or the template writes the present date. "
            "Put them back as they were, or start a new run.",
        )
        held_out = spread(valid.examples, config.eval.rows)
        self._longest = positions.longest_of(config, [*train.examples, *held_out])
        if self.resumed is None:
            preparing.tell_findings(self.report, config, dataset, train, valid)
        return train.examples, held_out

    def _data(
        self,
        backend: Backend,
        tokenizer: ChatTokenizer,
        train: Sequence[Example],
        valid: Sequence[Example],
        held: ExitStack,
    ) -> Feed:
        config, objective = self.config, preparing.objective_of(self.config)
        if objective.method.rows == "prompt":
            self._refuse_ranks(config.method.name)
            if self.resumed is None:
                preparing.tell_filters(self.report, config)
            judges = Judges(backend, tokenizer, self.run.made)
            sampler = Sampler(tokenizer, config.sampling)
            specs = make_specs([reward.model_dump() for reward in config.rewards])
            self._same_rewards(specs)
            scorer = held.enter_context(Scorer(specs, Tools(judges.open)))
            return RolloutData(train, valid, config, objective, sampler, scorer, self.report, judges)
        data = RunData(train, valid, config.train, objective, self.world.rank, self.world.size)
        if self.resumed is None and (oversized := data.oversized):
            text = (
                f"{len(oversized)} rows are longer than train.tokens_per_batch = "
                f"{config.train.tokens_per_batch} tokens, padding included; each is a batch of its own."
            )
            self.report.alert("over-budget", text, rows=oversized)
        return data

    def _dataset(self, objective: Objective) -> Dataset:
        config, env = self.config, self.run.env()
        dataset = load_dataset(
            Path(env["data"]),
            objective.method.rows,
            valid_fraction=config.data.valid_fraction,
            seed=config.train.seed,
        )
        if dataset.fingerprint != env["data_fingerprint"]:
            raise DataError(
                "this is not the data that rank 0 has"
                if self.world.rank
                else "the data has changed since this run was made",
                where=env["data"],
                hint="Put the data back as it was, or start a new run.",
            )
        return dataset

    def _refuse_ranks(self, method: str) -> None:
        if self.world.size > 1:
            raise UsageError(
                f"{method} cannot train on several ranks yet",
                where="mlx.launch",
                hint="Start it without mlx.launch.",
            )

    def _preflight(self, backend: Backend, train: Sequence[Example], valid: Sequence[Example]) -> None:
        """Refuse what will not fit before its weights are read; a run that has begun is only warned."""
        folder = Path(self.run.env()["model_folder"])
        try:
            objective = preparing.objective_of(self.config)
            planner = Planner.of(backend, folder, train, valid, objective, self.world.size)
            if planner is not None:
                otherwise = self.config.guard.memory if self.resumed is None else "warn"
                preflight(planner, self.config, self.report, otherwise)
        except UsageError as error:  # a model that the planner does not understand may train all the same
            text = f"The run's memory could not be planned: {error.message}."
            self.report.alert("not-planned", text, level="info")

    def _same(self, name: str, value: Any, changed: str, where: str, hint: str) -> None:
        """Note a fact in env.json, or refuse a resume for which it is another."""
        env = self.run.env()
        if env.setdefault(name, value) != value:
            raise DataError(changed, where=where, hint=hint)
        write_json(self.run.path / "env.json", env)

    def _same_rewards(self, specs: Sequence[Spec]) -> None:
        for source in sources(specs, self._digests):
            self._same(
                f"reward_fingerprint: {source.reward}",
                source.digest,
                f"what the reward '{source.reward}' is computed by has changed since this run began",
                str(source.path),
                "Put it back as it was, or start a new run.",
            )

    def _weights(self) -> str:
        """The digest of the base model's weights, which a resume must find as they were."""
        folder = Path(self.run.env()["model_folder"])
        try:
            digest = self._digests.folder(folder, files_of_model)
        except OSError as error:
            raise UsageError(
                f"the model cannot be read: {error.strerror or error}", where=str(folder)
            ) from None
        self._same(
            "weights_fingerprint",
            digest,
            "the model's weights or its config.json have changed since this run began",
            str(folder),
            "Put the model back as it was, or start a new run. "
            "If it has not changed, an earlier version of mlx-align counted other files of it.",
        )
        return digest

    def _policy(self, backend: Backend) -> Policy:
        config = self.config
        if config.adapter.start is not None:
            if self.resumed is None:  # before it is copied, so that it can be mended and the run go on
                kept = self.run.start
                preparing.refuse_dropout(config, kept if kept.exists() else typed(config.adapter.start))
            self.run.keep_start()
            start = {"start": str(self.run.start)}
            config = config.model_copy(update={"adapter": config.adapter.model_copy(update=start)})
        folder, seed = Path(self.run.env()["model_folder"]), config.train.seed
        return backend.load_policy(folder, config.adapter, config.optim, seed, self._longest)

    def _settled(self, policy: Policy, valid: Sequence[Example]) -> None:
        """Which list of position factors the run is read with, where the model has two."""
        found, noted = policy.positions, positions.KEY in self.run.env()
        if found is None and not noted:
            return
        if self.resumed is not None and not noted:  # nothing is made up about how it began
            self.report.alert("positions-unknown", positions.UNKNOWN)
            return
        chosen = None if found is None else positions.record(found)
        self._same(positions.KEY, chosen, positions.CHANGED, self.run.name, positions.PUT_BACK)
        if self.resumed is None and found is not None:
            positions.tell(self.report, self.config, found, self._longest, valid)

    def _same_on_all_ranks(self, policy: Policy, weights: str) -> None:
        facts = {
            "mlx-align's version": __version__,
            "the rows' tokens": self.run.env()["tokens_fingerprint"],
            "the model's weights": weights,
        }
        agree(self.world, facts)
        # Rank 0's: another chip may round the norms that a DoRA adapter begins with differently.
        first = policy.adapter_state()
        mine = self.world.rank == 0
        policy.load_adapter_state(self.world.sum({n: v if mine else 0 * v for n, v in first.items()}))

    def _begin(self, backend: Backend, policy: Policy, data: Feed) -> TrainerState:
        state = TrainerState() if self.resumed is None else TrainerState.from_json(self.resumed.trainer)
        self.total_steps = data.total_steps
        if state.best_checkpoint and not (self.run.path / "checkpoints" / state.best_checkpoint).is_dir():
            state.best_checkpoint = state.best_step = state.best_value = None  # removed: find a new best
        state = TrainerState.from_json(self.world.gather(state.to_json())[0])  # rank 0 has the checkpoints
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
        for note in policy.notes:
            self.report.alert("slower-forward", note, level="info")
        return state

    def _reference(
        self, backend: Backend, policy: Policy, weights: str, data: RunData, state: TrainerState
    ) -> None:
        """Score held-out rows (for the KL estimate), and training rows where the loss needs them.

        The policy is still as it was when the run began, also in a resume: no checkpoint is in it yet.
        """
        config, method = self.config, data.objective.method
        begun = config.adapter.start is not None
        start = self._digests.folder(self.run.start, files_of_adapter) if begun else None
        long = positions.reads_long(policy)
        known_as = policy_digest(weights, start, config.adapter, config.backend, backend, long=long)
        reference = Reference(
            policy,
            Shards(self.run.path / "reference"),
            ReferenceCache(self._cache / "reference", known_as, self.report, self._trouble),
            config=config.train,
            report=self.report,
            world=self.world,
        )
        progress = self.report.progress("reference")

        def watched(done: int, total: int) -> None:
            progress(done, total)
            if self.control.requested(STOP):
                self._stop(state)

        if method.needs_reference(data.objective.hp):
            data.valid_ref, data.train_ref = reference.logps(data.valid, data.train, progress=watched)
        else:
            (data.valid_ref,) = reference.logps(data.valid, progress=watched)

    # Finishing

    def _end(self, outcome: Outcome, state: TrainerState) -> None:
        if outcome == "stopped":
            self._stop(state)
        self.report.phase("saving")
        if self.world.rank == 0:
            self._export(state)
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

    def _export(self, state: TrainerState) -> None:
        latest = self.run.checkpoints().latest()
        if latest is None:
            raise AlignError("no checkpoint was saved", where=str(self.run.path))
        best = latest if state.best_checkpoint is None else latest.with_name(state.best_checkpoint)
        export_adapter(best, self.run.adapter)

    def _stop(self, state: TrainerState) -> NoReturn:
        """Answer a request to stop; whatever is to be kept has been saved."""
        latest = self.run.checkpoints().latest()
        self.control.clear(STOP)
        self._summary("stopped", state)
        checkpoint = "" if latest is None else f"checkpoints/{latest.name}"
        self.report(RunStopped(step=state.step, checkpoint=checkpoint))
        raise InterruptedRunError(f"stopped at step {state.step}")

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

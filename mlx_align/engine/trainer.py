"""The only training loop. It knows neither the method's formula nor the framework.

    for each update:  accumulate its micro-batches -> clip and apply -> say how it went
    every so often:   evaluate on held-out rows, answer the fixed prompts, save a checkpoint
    between micro-batches: look for a request to stop or to save

Everything that decides what happens next is a function of the configuration and of TrainerState, never
of the clock, so a resumed run repeats the uninterrupted one. And so several ranks, each with its own rows,
stay together: whatever they decide by is added up over all of them first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from mlx_align.backends.base import ALONE, Policy, Update, World
from mlx_align.config import RunConfig
from mlx_align.data import ChatTokenizer
from mlx_align.engine.evaluation import answer, spread
from mlx_align.engine.feed import Feed
from mlx_align.engine.guards import MemoryWatch
from mlx_align.engine.reporter import Reporter
from mlx_align.engine.schedule import learning_rate
from mlx_align.engine.state import TrainerState, Window, total
from mlx_align.errors import AlignError, DivergedError
from mlx_align.events import Checkpoint, Eval, Memory, Sample, Step
from mlx_align.runs import CHECKPOINT, STOP, Checkpoints, Control

Outcome = Literal["completed", "early stop", "stopped"]


class Trainer:
    """Trains a policy until its steps are done, it stops improving, or someone asks it to stop.

    Args:
        policy: what is trained.
        data: the micro-batches.
        tokenizer: turns sampled ids into text.
        config: the run's configuration.
        state: where to begin; a fresh TrainerState or one from a checkpoint.
        report: writes events.
        control: requests from outside.
        checkpoints: where to save.
        on_save: called after each checkpoint.
        world: the ranks that train together.
        clock: monotonic seconds, for throughput figures only.
    """

    def __init__(
        self,
        policy: Policy,
        data: Feed,
        tokenizer: ChatTokenizer,
        config: RunConfig,
        *,
        state: TrainerState,
        report: Reporter,
        control: Control,
        checkpoints: Checkpoints,
        on_save: Callable[[TrainerState], None],
        world: World = ALONE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy, self._data, self._tokenizer, self._config = policy, data, tokenizer, config
        self.state = state
        self._report, self._control, self._checkpoints = report, control, checkpoints
        self._on_save, self._world, self._clock = on_save, world, clock
        self._memory = MemoryWatch()
        self._prompts = spread(data.valid, config.eval.samples if world.rank == 0 else 0)
        self._decisive = "reward" if config.eval.metric == "reward" else "loss"

    def run(self) -> Outcome:
        """Train.

        Raises:
            DivergedError: too many updates in a row were not finite.
            AlignError: the first gradient was exactly zero.
        """
        if not self.state.begun:
            self.state.begun = True
            self._evaluate()
            self._save()
        self._report.phase("training")
        steps = self._data.total_steps
        while self.state.step < steps:
            if self._stale():
                return "early stop"
            if not self._window():
                return "stopped"
            self._after_update(self.state.step == steps)
        return "completed"

    def _stale(self) -> bool:
        patience = self._config.eval.patience
        return patience is not None and self.state.stale_evals >= patience

    # One update

    def _window(self) -> bool:
        """Fill the window and apply it; False if a stop was requested before it was full."""
        state, began = self.state, self._clock()
        if not self._data.prepare(self._policy, state.step, self._stopped):
            self._save()
            return False
        ready = self._clock()
        state.seconds += ready - began
        counts = total(self._world.gather(self._data.window_counts(state.step)))
        end = self._data.window(state.step).stop
        bad_rows: tuple[str, ...] = ()
        while state.position < end:
            if self._stopped():
                self._save()
                return False
            if self._control.requested(CHECKPOINT):
                self._control.clear(CHECKPOINT)
                self._save()
            bad_rows += self._micro_batch(counts)
            self._report.heartbeat(state.step)
        bad_rows = tuple(name for of_rank in self._world.gather(bad_rows) for name in of_rank)
        self._apply(state.window.of_all(self._world), counts, bad_rows, ready)
        return True

    def _stopped(self) -> bool:
        return self._control.requested(STOP)

    def _micro_batch(self, counts: dict[str, float]) -> tuple[str, ...]:
        """Accumulate the micro-batch at the current position; returns the rows that were not finite."""
        state = self.state
        batch = self._data.batch(state.position)
        seed = (self._config.train.seed << 32) + state.position * self._world.size + self._world.rank
        if batch is None:  # there are not enough rows left for all ranks
            state.position += 1
            return ()
        scores = self._policy.accumulate(batch, self._data.objective, counts, seed=seed)
        state.window.add(scores, batch.size, batch.tokens(), batch.padded())
        state.position += 1
        if all(map(math.isfinite, scores.sums.values())):
            return ()
        finite = [
            all(math.isfinite(values[row]) for values in scores.metrics.values()) for row in range(batch.size)
        ]
        named = tuple(name for name, good in zip(batch.rows, finite, strict=True) if not good)
        return named or batch.rows

    def _apply(
        self, window: Window, counts: dict[str, float], bad_rows: tuple[str, ...], began: float
    ) -> None:
        state = self.state
        facts, silent = self._data.facts(state.step), self._data.silent(state.step)
        teaches = self._data.teaches(state.step)
        rate = learning_rate(state.step, self._data.total_steps, self._config.optim)
        if not all(map(math.isfinite, window.sums.values())):  # though the gradient may be finite
            self._policy.discard()
            update = Update(math.nan, applied=False)
        elif silent:  # weight decay and momentum would move the weights all the same
            self._policy.discard()
            update = Update(0.0, applied=True)
        else:
            update = self._policy.update(rate)
        state.step += 1
        state.window = Window()
        if state.step == 1 and update.grad_norm == 0.0 and teaches:
            raise AlignError(
                "the first gradient is exactly zero: nothing would be learnt",
                hint="Check adapter.modules and adapter.layers, and that the answers to a prompt differ.",
            )
        seconds = self._clock() - began
        state.seconds += seconds
        self._report(
            Step(
                step=state.step,
                epoch=self._data.epoch(state.position),
                loss=window.loss(counts),
                learning_rate=rate,
                grad_norm=update.grad_norm,
                metrics={**facts, **window.means()},
                tokens=window.tokens,
                padded=window.padded,
                seconds=seconds,
                skipped=not update.applied,
            )
        )
        self._guard(update, bad_rows)

    def _guard(self, update: Update, bad_rows: tuple[str, ...]) -> None:
        """Count updates that were not finite; name their rows, and give up after too many in a row."""
        state, limit = self.state, self._config.guard.nonfinite_limit
        if update.applied:
            state.bad_updates = 0
            return
        state.bad_updates += 1
        rows = bad_rows or self._data.rows(state.step - 1)
        self._report.alert(
            "non-finite",
            f"Step {state.step} was skipped: its {'loss' if bad_rows else 'gradient'} is not finite "
            f"({state.bad_updates} in a row, {limit} end the run).",
            step=state.step,
            rows=rows,
        )
        if state.bad_updates >= limit:
            raise DivergedError(
                f"{limit} updates in a row were not finite",
                where=f"step {state.step}",
                hint="Try a smaller optim.lr or a longer optim.warmup, and look at the rows the alerts name. "
                "The last good checkpoint is intact.",
            )

    # Between updates

    def _after_update(self, last: bool) -> None:
        step, every = self.state.step, self._config.eval.every
        if step % self._memory.EVERY == 0:
            self._watch_memory()
        due = last or bool(every and step % every == 0)
        best = due and self._evaluate()
        if best or last or self._stale() or step % self._config.checkpoint.every == 0:
            self._save()
        if due and not last:
            self._report.phase("training")

    def _evaluate(self) -> bool:
        """Evaluate and sample; True if this is the best evaluation so far."""
        state, began = self.state, self._clock()
        best = False
        if self._data.valid:
            self._report.phase("evaluating")
            progress = self._report.progress("evaluating")
            metrics = self._data.evaluate(self._policy, progress, self._world)
            best = state.note_eval(metrics, self._config.eval.metric)
            if not math.isfinite(metrics[self._decisive]):
                text = f"The held-out {self._decisive} is not finite."
                self._report.alert("non-finite-eval", text, step=state.step)
            if best:
                state.best_checkpoint = self._checkpoints.name(state.step, 0)
            seconds = self._clock() - began
            rows = len(self._data.valid)
            self._report(Eval(step=state.step, rows=rows, metrics=metrics, best=best, seconds=seconds))
        if self._prompts:
            self._report.phase("sampling")
            answers = answer(self._policy, self._tokenizer, self._prompts, self._config.eval.max_tokens)
            self._report(Sample(step=state.step, completions=answers))
        use = self._policy.memory()
        self._report(
            Memory(step=state.step, active=use.active, peak=use.peak, limit=use.limit, traces=use.traces)
        )
        return best

    def _watch_memory(self) -> None:
        told = self._world.gather(self._memory.look(self._policy.memory()))  # only rank 0's alerts are read
        for rank, growth in enumerate(told):
            if growth is not None:
                where = f"On rank {rank}: " if len(told) > 1 else ""
                self._report.alert("memory-growth", f"{where}{growth}", step=self.state.step)

    def _save(self) -> None:
        state = self.state
        # The last window may be a short one, so the position may lie before the end of a whole one.
        micro = max(0, state.position - state.step * self._config.train.accumulate)
        name = self._checkpoints.name(state.step, micro)
        training = {**self._policy.training_state(), **self._data.state(state.position)}
        trainer = replace(state, window=state.window.of_all(self._world)).to_json()
        if self._world.rank != 0:
            return
        path = self._checkpoints.save(
            name,
            write_adapter=self._policy.save_adapter,
            training=training,
            trainer=trainer,
            keep_also=[state.best_checkpoint] if state.best_checkpoint else [],
        )
        self._report(
            Checkpoint(step=state.step, path=f"checkpoints/{path.name}", best=name == state.best_checkpoint)
        )
        self._on_save(state)

"""The gradient of a batch: its rows in lanes, and of a large group a few branches at a time.

    all at once   one forward and backward pass
    in pieces     the prompts' keys and values first, without a gradient; then some branches of every prompt
                  after the other, which give derivatives by these keys and values besides the adapter's; at
                  last, once, the way back through the prompts with the sum of those

The second keeps as much as its largest piece needs, so a group's size is a question of time. It is the same
gradient, because a loss is a sum over branches (`methods.base.Loss`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from mlx_align.backends.base import Objective, Scores
from mlx_align.backends.mlx.arrays import Arrays, to_numpy
from mlx_align.backends.mlx.forward import Forward, Inputs
from mlx_align.backends.mlx.lanes import Lanes
from mlx_align.backends.mlx.prefix import Held
from mlx_align.backends.mlx.step import Functions, Made, to_arrays
from mlx_align.backends.parts import Part, Piece, pieces, rejoined
from mlx_align.batch import Batch


@dataclass
class _Job:
    """What one lane works on: a part of the batch, and what has become of it so far.

    `keys` seed the dropout: one for each piece, and one for the prompts; `prefixes` is None where these are
    not read apart.
    """

    part: Part
    prefixes: Any
    keys: list[mx.array]
    pieces: list[Piece]
    held: Held
    by_held: Held
    scores: list[Scores]


@dataclass(frozen=True)
class Gradients:
    """Makes them.

    Attributes:
        functions: the traced functions.
        forward: how a batch is read.
        lanes: where parts are computed.
    """

    functions: Functions
    forward: Forward
    lanes: Lanes

    def of(
        self, parts: Sequence[Part], objective: Objective, counts: Mapping[str, float], seed: int
    ) -> tuple[Arrays, list[Scores]]:
        """The adapter's gradient, summed over the parts, and the scores of each part."""
        keys = mx.random.split(mx.random.key(seed), num=len(parts))
        jobs = [
            self._job(part, objective.branches_at_once, key) for part, key in zip(parts, keys, strict=True)
        ]
        apart = [job for job in jobs if job.prefixes is not None]
        for job, held in zip(apart, self.lanes.map(self._prefixes, apart), strict=True):
            job.held = held
        total: Arrays = {}
        for number in range(max(len(job.pieces) for job in jobs)):
            made = self.lanes.map(partial(self._piece, number, objective, counts), jobs)
            for job, one in zip(jobs, made, strict=True):
                total = _sum(total, one.gradient)
                job.by_held = _sum_held(job.by_held, one.by_held)
                job.scores.append(_scores(one))
            mx.eval(total, [job.by_held for job in jobs])
        for gradient in self.lanes.map(self._through_prefixes, apart):
            total = _sum(total, gradient)
            mx.eval(total)
        return total, [rejoined(job.part.batch, job.pieces, job.scores) for job in jobs]

    def _job(self, part: Part, at_once: int | None, key: mx.array) -> _Job:
        # What is compiled is compiled for a shape, so a piece may not have one of its own.
        cut = pieces(part.batch, at_once, keep_shape=self.functions.compiled)
        inputs = self.forward.inputs(part.batch) if len(cut) > 1 else {}
        keys = list(mx.random.split(key, num=len(cut) + 1))
        prefixes = inputs.get("prefixes")
        # A lane cannot compute what belongs to another thread's stream, so this is computed here.
        mx.eval(keys, prefixes)
        return _Job(part, prefixes, keys, cut, [], [], [])

    def _prefixes(self, job: _Job) -> Held:
        return self.functions.prefixes(job.prefixes, job.keys[-1])

    def _through_prefixes(self, job: _Job) -> Arrays:
        return self.functions.through_prefixes(job.prefixes, job.keys[-1], job.by_held)

    def _piece(self, number: int, objective: Objective, counts: Mapping[str, float], job: _Job) -> Made:
        batch = job.pieces[number].batch
        return self.functions.gradient(
            objective,
            self._inputs(job, batch),
            to_arrays(batch),
            {term: mx.array(count, mx.float32) for term, count in counts.items()},
            job.keys[number],
            job.held,
        )

    def _inputs(self, job: _Job, batch: Batch) -> Inputs:
        return self.forward.shared_inputs(batch) if job.held else self.forward.inputs(batch)


def _sum(total: Arrays, new: Arrays) -> Arrays:
    return {name: total[name] + value for name, value in new.items()} if total else new


def _sum_held(total: Held, new: Held) -> Held:
    if not total:
        return new
    return [[a + b for a, b in zip(one, other, strict=True)] for one, other in zip(total, new, strict=True)]


def _scores(made: Made) -> Scores:
    return scores_of(made.sums, made.metrics, made.logps)


def scores_of(sums: Arrays, metrics: Arrays, logps: mx.array) -> Scores:
    """On the host."""
    return Scores(
        sums={term: float(to_numpy(value)) for term, value in sums.items()},
        metrics={name: to_numpy(value) for name, value in metrics.items()},
        logps=to_numpy(logps),
    )

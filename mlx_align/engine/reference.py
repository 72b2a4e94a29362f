"""The reference policy's log-probabilities, computed once, before the first update.

The reference is the model as it is when the run starts: the base model for a fresh adapter (its B is zero),
base plus starting adapter when continuing from one. So nothing has to be switched off: the first policy
scores every row. What it said is kept twice: in the run directory for the run's later attempts, and in the
cache for other runs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from mlx_align.backends.base import ALONE, Policy, World
from mlx_align.config import TrainConfig
from mlx_align.data import Example, Shape, collate, eval_batches
from mlx_align.engine.reference_cache import ReferenceCache
from mlx_align.engine.reporter import Reporter
from mlx_align.runs.shards import Row, Rows, Shards

Progress = Callable[[int, int], None]

SAVE_SECONDS = 15.0
"""A pass that is killed loses no more than this."""


@dataclass(frozen=True)
class ScoredSet:
    """Examples in the batches that they are scored in: composed from all of them, whatever is known already.

    Attributes:
        examples: the rows.
        batches: which rows share a batch, and the shape it is padded to.
        keys: for each row, what its log-probabilities depend on besides the policy: its tokens, and the shape
            of its batch, which decides how sums are rounded (on a CPU not alone: see `reference_cache`).
        world: the ranks that score them together.
    """

    examples: Sequence[Example]
    batches: Sequence[tuple[tuple[int, ...], Shape]]
    keys: Sequence[bytes]
    world: World = ALONE

    @classmethod
    def of(cls, examples: Sequence[Example], config: TrainConfig, world: World = ALONE) -> ScoredSet:
        """The batches of a configuration."""
        batches = eval_batches(examples, config)
        shapes = {index: shape for indices, shape in batches for index in indices}
        keys = [row_key(example, shapes[i]) for i, example in enumerate(examples)]
        return cls(examples, batches, keys, world)

    def score(self, policy: Policy, known: Rows, progress: Progress) -> None:
        """Add to the known rows what is missing; of several ranks, each scores its own batches.

        A batch is left out only if all its rows are known, and a row that is known keeps its value. So the
        values do not depend on where an earlier pass was interrupted.

        Args:
            policy: who scores.
            known: rows by key.
            progress: called with (rows done, rows in all) after each batch; what it raises ends the pass.
        """
        done = 0
        for start in range(0, len(self.batches), self.world.size):
            turn = self.batches[start : start + self.world.size]
            for indices, shape in turn[self.world.rank : self.world.rank + 1]:
                if any(self.keys[i] not in known for i in indices):
                    for index, row in zip(indices, self._rows(policy, indices, shape), strict=True):
                        known.setdefault(self.keys[index], row)
            done += sum(len(indices) for indices, _ in turn)
            progress(done, len(self.examples))

    def lengths(self) -> dict[bytes, list[int]]:
        """For each row, by its key, how many log-probabilities its branches have."""
        return {
            key: [len(ids) for ids in example.branch_ids]
            for key, example in zip(self.keys, self.examples, strict=True)
        }

    def _rows(self, policy: Policy, indices: Sequence[int], shape: Shape) -> list[Row]:
        """For each row of a batch, for each branch, its (T_i,) log-probabilities."""
        examples = [self.examples[i] for i in indices]
        batch = collate(examples, shape=shape)
        lens = [len(ids) for example in examples for ids in example.branch_ids]
        logps = policy.logps(batch)
        rows: list[Row] = [[] for _ in indices]
        for branch, row in enumerate(batch.branch_row):
            rows[row].append(logps[branch, : lens[branch]].copy())
        return rows


def row_key(example: Example, shape: Shape) -> bytes:
    """(32 bytes) See `ScoredSet.keys`."""
    digest = hashlib.sha256()
    for numbers in (astuple(shape), example.prompt_ids, *example.branch_ids):
        digest.update(np.array([len(numbers), *numbers], np.int64).tobytes())
    return digest.digest()


def reference_logps(policy: Policy, examples: Sequence[Example], *, config: TrainConfig) -> list[Row]:
    """For each example, for each branch, its (T_i,) log-probabilities under the policy as it is now.

    Nothing is looked up, and nothing is kept.
    """
    known: Rows = {}
    rows = ScoredSet.of(examples, config)
    rows.score(policy, known, lambda done, total: None)
    return [known[key] for key in rows.keys]


class Reference:
    """Knows rows from the run or the cache, or asks the policy, and keeps what it said.

    Args:
        policy: the model as it is when the run starts.
        own: what the run keeps for itself.
        cache: what runs keep for each other.
        config: how many rows or tokens a batch has.
        report: is told what comes from where.
        world: the ranks that need the same rows; what one knows all get to know.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        policy: Policy,
        own: Shards,
        cache: ReferenceCache,
        *,
        config: TrainConfig,
        report: Reporter,
        world: World = ALONE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._world = world
        self._policy, self._own, self._cache, self._report = policy, own, cache, report
        self._config, self._clock = config, clock
        self._rows: Rows = {}
        self._kept: set[bytes] = set()

    def logps(self, *sets: Sequence[Example], progress: Progress) -> tuple[list[Row], ...]:
        """What `reference_logps` gives for each set of examples.

        Args:
            sets: the examples, in the order in which they are scored.
            progress: see `ScoredSet.score`.
        """
        scored = [ScoredSet.of(examples, self._config, self._world) for examples in sets]
        every = [key for of_set in scored for key in of_set.keys]
        missing = self._missing(every)
        found = self._recall(missing) if missing else 0
        self._share(scored)
        unknown = sum(key not in self._rows for key in every)
        if missing:
            text = f"{found} of {len(every)} rows are in the cache"
            if unknown:
                text = f"scoring {unknown} rows with the model as it starts; {text}"
            self._report.phase("reference", text)
        if unknown:
            self._score(scored, progress)
        if missing:
            self._save()
            self._cache.tidy()
        return tuple([self._rows[key] for key in of_set.keys] for of_set in scored)

    def _missing(self, keys: Sequence[bytes]) -> list[bytes]:
        """The keys of rows that the run itself does not have."""
        self._rows, damaged = self._own.read(set(keys))
        self._kept = set(self._rows)
        if damaged:
            self._report.alert(
                "damaged-reference",
                f"{damaged} files of this run's reference log-probabilities were damaged; what was in them "
                "is taken from the cache or computed again.",
            )
        return [key for key in keys if key not in self._rows]

    def _recall(self, missing: Sequence[bytes]) -> int:
        """Take from the cache what it has; how many of the rows those are."""
        cached = self._cache.get(missing)
        if cached:
            self._own.write(cached)
            self._rows.update(cached)
            self._kept.update(cached)
        return sum(key in cached for key in missing)

    def _score(self, sets: Sequence[ScoredSet], progress: Progress) -> None:
        """Ask the policy for the rest. Also what a stop or a failure leaves unfinished is kept."""
        last_save = self._clock()

        def saving(done: int, total: int) -> None:
            nonlocal last_save
            if self._clock() - last_save >= SAVE_SECONDS:
                self._save()
                last_save = self._clock()
            progress(done, total)

        try:
            for of_set in sets:
                of_set.score(self._policy, self._rows, saving)
        finally:
            self._save()
        self._share(sets)

    def _share(self, sets: Sequence[ScoredSet]) -> None:
        """Let every rank know what any of them knows; where several do, the first one's values hold."""
        if self._world.size == 1:
            return
        lengths = {key: counts for of_set in sets for key, counts in of_set.lengths().items()}
        known = self._world.gather([key in self._rows for key in lengths])
        firsts = [of_key.index(True) if any(of_key) else None for of_key in zip(*known, strict=True)]
        ends = np.cumsum([sum(counts) for counts in lengths.values()])
        values = np.zeros(ends[-1] if len(ends) else 0, np.float32)
        for end, key, first in zip(ends, lengths, firsts, strict=True):
            if first == self._world.rank:
                row = np.concatenate(self._rows[key])
                values[end - len(row) : end] = row
        values = self._world.sum({"values": values})["values"]
        for end, (key, counts), first in zip(ends, lengths.items(), firsts, strict=True):
            if first is not None:
                row = values[end - sum(counts) : end]
                self._rows[key] = np.split(row.copy(), np.cumsum(counts)[:-1])

    def _save(self) -> None:
        """Keep what has been scored since the last time."""
        fresh = {key: row for key, row in self._rows.items() if key not in self._kept}
        if fresh:
            self._own.write(fresh)
            self._cache.put(fresh)
            self._kept.update(fresh)

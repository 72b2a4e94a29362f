"""Reference log-probabilities that any run may use again.

    <cache>/reference/<policy>/<shard>.safetensors        see `runs.shards`

`<policy>` is a digest of all that decides what the reference computes: the base weights and config.json, the
starting adapter, backend, device, dtype, and the versions of the libraries. What changes one of them changes
the address, so a stale entry is never found. The tokenizer and the chat template are in a row's token ids.

The shape of its batch is in a row's address too (`reference.row_key`): with other padding the last digits are
others, and a run should not come to another result because of what other runs have left here. The lanes of a
CPU are not in it: they pad a row with those beside it, so what another run has left here may differ by 1e-6.

The folder may be removed at any time. Above LIMIT_BYTES the policies unused for longest are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mlx_align import __version__
from mlx_align.backends.base import Backend
from mlx_align.config import AdapterConfig, BackendConfig
from mlx_align.engine.reporter import Reporter
from mlx_align.runs.shards import Row, Rows, Shards

FORMAT = 4
"""Raise it when the same inputs come to mean other values."""
LIMIT_BYTES = 2 << 30
"""About 5 million answers of 100 tokens."""


class Trouble:
    """Says once that the cache cannot be used, and then keeps quiet; the run goes on without it."""

    def __init__(self, cache: Path, report: Reporter) -> None:
        self._cache, self._report, self._said = cache, report, False

    def __call__(self, error: OSError) -> None:
        """Something could not be written."""
        if not self._said:
            self._said = True
            self._report.alert(
                "no-cache",
                f"Nothing can be kept for later runs in {self._cache} ({error.strerror or error}); "
                "runs.cache chooses another folder.",
            )


def policy_digest(
    weights: str,
    start: str | None,
    adapter: AdapterConfig,
    config: BackendConfig,
    backend: Backend,
    *,
    long: bool,
) -> str:
    """What a run's first policy is known by.

    Args:
        weights: digest of the base model.
        start: digest of the adapter it starts from, if it does.
        adapter: a fresh one. LoRA's adds exactly nothing; DoRA's only up to the rounding of its norms.
        config: the backend's section.
        backend: made from it.
        long: whether it reads all rows with its factors for long ones (LongRoPE).
    """
    fresh = {"modules": adapter.modules, "layers": adapter.layers} if adapter.type == "dora" else None
    facts: dict[str, Any] = {
        "format": FORMAT,
        "weights": weights,
        "adapter": start or fresh,
        "long": long,
        "backend": {**config.model_dump(), "device": backend.device},
        "versions": {"mlx-align": __version__, **backend.versions()},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class ReferenceCache:
    """The entries of one policy.

    Args:
        root: the folder of all policies.
        policy: from `policy_digest`.
        report: is told of damage.
        trouble: is told when nothing can be written.
        limit: bytes that all policies may take.
    """

    def __init__(
        self, root: Path, policy: str, report: Reporter, trouble: Trouble, limit: int = LIMIT_BYTES
    ) -> None:
        self._root, self._policy, self._limit = root, policy, limit
        self._report, self._trouble = report, trouble
        self._shards = Shards(root / policy)

    def get(self, keys: Iterable[bytes]) -> Rows:
        """Those of the rows that are known."""
        addresses = {self._address(key): key for key in keys}
        rows, damaged = self._shards.read(addresses)
        if damaged:
            self._report.alert(
                "damaged-cache",
                f"The cached reference log-probabilities in {self._shards.folder} are damaged in {damaged} "
                "files; what was in them is computed again.",
            )
        return {addresses[address]: row for address, row in rows.items()}

    def put(self, rows: Rows) -> None:
        """Keep rows for later runs, except those that are not finite: a failing device may be the cause."""
        sound = {self._address(key): row for key, row in rows.items() if _finite(row)}
        if not sound:
            return
        try:
            self._shards.write(sound)
        except OSError as error:
            self._trouble(error)

    def tidy(self) -> None:
        """Mark this policy as used just now, and remove those unused for longest while all take too much."""
        try:
            if self._shards.folder.is_dir():
                os.utime(self._shards.folder)
            self._prune()
        except FileNotFoundError:  # another process makes room at the same time
            return
        except OSError as error:
            self._trouble(error)

    def _prune(self) -> None:
        folders = sorted((path.stat().st_mtime, path) for path in self._root.glob("*/"))
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for _, path in folders}
        total = sum(sizes.values())
        for _, path in folders:
            if total > self._limit and path.name != self._policy:
                shutil.rmtree(path)
                total -= sizes[path]

    def _address(self, key: bytes) -> bytes:
        return hashlib.sha256(self._policy.encode() + key).digest()


def _finite(row: Row) -> bool:
    return all(bool(np.isfinite(array).all()) for array in row)

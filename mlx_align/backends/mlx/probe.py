"""How a model may be read: decided once, at load, by trying it on a few tokens.

Sharing a prompt between branches and telling the head from the layers are exact for most of mlx-lm's
architectures, but not for all: recurrent layers have no keys to share, and some models do more between layers
and logits. So both are compared with the plain call on a tiny batch, and what does not agree is not used.

The plain call itself is compared with what generates, which is the model with a cache: a few architectures
are another network without one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache
from numpy.typing import NDArray

from mlx_align.backends.mlx.arrays import to_numpy
from mlx_align.backends.mlx.forward import Forward, after_prefixes, read_prefixes
from mlx_align.backends.mlx.longrope import border
from mlx_align.backends.mlx.split import SplitModel
from mlx_align.backends.sequences import prefixes_and_suffixes, whole_sequences
from mlx_align.batch import Batch
from mlx_align.errors import UsageError

EXACT, ROUNDED = 1e-3, 0.05
"""Allowed error in float32 on the CPU and otherwise (GPUs may multiply with 10 bits), as a share of what
leaving out the prompt changes. A forgotten prompt is an error of 1."""
TINY = 1e-30
"""Where leaving it out changes nothing: an error of 0 is none then, and any other is one."""

PROMPTS = ((5, 9, 2, 11, 7, 3, 8), (4, 10, 6))
BRANCHES = ((12, 3, 5, 1, 9), (2, 8), (7, 7, 4), (1, 6, 13, 2))
"""Of different lengths, so that padding and positions are tried as well; any vocabulary has these ids."""


@dataclass(frozen=True)
class Reading:
    """How a model is read.

    Attributes:
        forward: the way.
        notes: what could not be used, as sentences for a person.
        trouble: why that is not the network which generates; None: it is.
    """

    forward: Forward
    notes: tuple[str, ...]
    trouble: str | None

    def check(self, done: str) -> None:
        """See that the model may be read for what is to be done with it, "trained" or "scored".

        Raises:
            UsageError: all that can be done with it is to generate.
        """
        if self.trouble is not None:
            raise UsageError(
                f"this model would not be {done} as it generates: with a cache it is another network, and "
                f"{self.trouble}",
                hint="Use a model of another architecture.",
            )


def choose(model: nn.Module, lanes: int = 1, *, frugal: bool = False) -> Reading:
    """The fastest way of reading a model that agrees with the plain one on a tiny batch.

    Args:
        model: with its adapter.
        lanes: as `Forward.lanes`.
        frugal: as `Forward.frugal`.

    Raises:
        UsageError: the model cannot be computed at all.
    """
    model.eval()
    batch = _tiny_batch()
    ids, starts = map(mx.array, whole_sequences(batch))
    cached, untrue = _needs_caches(model, ids[:1])
    plain = SplitModel(model, whole=True, cached=cached).features(ids)
    split, notes = _split(model, cached, ids, plain)
    trouble = _sharing_trouble(split, batch, ids, starts) or _window_trouble(split, batch)
    if trouble is not None:
        note = f"Prompts are read once for every answer instead of once for all, because {trouble}."
        notes = (*notes, note)
    forward = Forward(split, trouble is None, plain.shape[-1], lanes, frugal, border(model))
    return Reading(forward, notes, untrue)


def _needs_caches(model: nn.Module, ids: mx.array) -> tuple[bool, str | None]:
    """Whether the model needs caches that a gradient goes through to read (1, L) ids as it does to generate.

    Returns:
        whether; and why it does not read them so even with those, None if it does.

    Raises:
        UsageError: it cannot be computed at all.
    """
    generates = _generates(model, ids)
    each_alone = model(ids.T).swapaxes(0, 1)  # every token without those before it
    if not mx.isfinite(generates).all():
        return False, None  # nothing to compare with; a run says so itself, at its first update

    def trouble(cached: bool) -> str | None:
        read = SplitModel(model, whole=True, cached=cached)
        return trouble_of(lambda: read.features(ids), generates, each_alone)

    if trouble(cached=False) is None:
        return False, None
    still = trouble(cached=True)
    return still is None, still


def _generates(model: nn.Module, ids: mx.array) -> mx.array:
    try:
        logits: mx.array = model(ids, cache=make_prompt_cache(model))
    except (AttributeError, KeyError, TypeError, ValueError) as failure:  # it reads a weight itself
        raise UsageError(
            f"this model cannot be computed as it is loaded ({type(failure).__name__}: {failure})",
            where="adapter.modules",
            hint="It may not bear an adapter on all its layers: try --set adapter.modules=attention.",
        ) from None
    return logits


def _split(
    model: nn.Module, cached: bool, ids: mx.array, plain: mx.array
) -> tuple[SplitModel, tuple[str, ...]]:
    split = SplitModel(model, cached=cached)
    if split.whole:
        trouble: str | None = "its layers are not in a module of their own"
    else:
        trouble = trouble_of(lambda: split.logits(split.features(ids)[0]), plain[0], mx.zeros_like(plain[0]))
    if trouble is None:
        return split, ()
    note = f"Logits are computed for every token instead of the scored ones only, because {trouble}."
    return SplitModel(model, whole=True, cached=cached), (note,)


def _sharing_trouble(split: SplitModel, batch: Batch, ids: mx.array, starts: mx.array) -> str | None:
    prefixes, lens, suffixes = map(mx.array, prefixes_and_suffixes(batch))
    of_prompts = mx.arange(prefixes.shape[1]) < mx.array(batch.prompt_lens)[:, None] - 1
    real = mx.concatenate([mx.array(batch.branch_mask).reshape(-1), of_prompts.reshape(-1)])[:, None]

    def both(branches: mx.array, prompts: mx.array) -> mx.array:
        flat = [features.reshape(-1, features.shape[-1]) for features in (branches, prompts)]
        return mx.concatenate(flat) * real

    whole = split.features(ids)
    prompts = whole[:: batch.branches, : prefixes.shape[1]]
    positions = (starts[:, None] - 1 + mx.arange(batch.branch_ids.shape[1]))[:, :, None]
    wanted = both(mx.take_along_axis(whole, positions, axis=1), prompts)
    without_prompt = both(split.features(suffixes), prompts)

    def shared() -> mx.array:
        held, read = read_prefixes(split, prefixes)
        return both(after_prefixes(split, held, lens, suffixes), read)

    return trouble_of(shared, wanted, without_prompt)


def trouble_of(attempt: Callable[[], mx.array], wanted: mx.array, without: mx.array) -> str | None:
    """Why an attempt's result cannot stand for the wanted one; `without` is what a grave mistake gives."""
    try:
        error = mx.linalg.norm((attempt() - wanted).astype(mx.float32))
    except Exception as failure:  # the model's own code may refuse in any way
        return f"this architecture refuses ({type(failure).__name__}: {failure})"
    scale = mx.maximum(mx.linalg.norm((without - wanted).astype(mx.float32)), TINY)
    share = float(to_numpy(error / scale))
    exact = wanted.dtype == mx.float32 and mx.default_device() == mx.cpu
    return None if share < (EXACT if exact else ROUNDED) else f"the results differ (by {share:.1g})"


def _window_trouble(split: SplitModel, batch: Batch) -> str | None:
    """Sliding windows are longer than the tiny batch: see whether the model has them in its masks."""
    make_cache = getattr(split.model, "make_cache", list)
    windows = {cache.max_size for cache in make_cache() if isinstance(cache, RotatingKVCache)}
    recorders = split.recorders()
    if windows:
        split.features(mx.array(batch.prompt_ids), recorders)
    asked = {recorder.window for recorder in recorders}
    return None if windows <= asked else "its attention windows are not part of its masks"


def _tiny_batch() -> Batch:
    rows = np.repeat(np.arange(len(PROMPTS)), len(BRANCHES) // len(PROMPTS))
    branches = _padded(BRANCHES)
    mask = (branches > 0).astype(np.float32)
    return Batch(
        prompt_ids=_padded(PROMPTS),
        prompt_lens=np.array([len(prompt) for prompt in PROMPTS], np.int32),
        branch_ids=branches,
        branch_mask=mask,
        response_mask=mask,
        branch_row=rows.astype(np.int32),
        scored=np.arange(branches.size, dtype=np.int32),
        ref_logps=None,
        rows=("",) * len(PROMPTS),
    )


def _padded(rows: tuple[tuple[int, ...], ...]) -> NDArray[np.int32]:
    out = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out

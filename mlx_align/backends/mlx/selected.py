"""Log-probabilities of chosen tokens, without ever holding all logits.

For M positions and a vocabulary of V, the (M, V) logits are the largest array of a training step. They are
needed only to normalise, so they are made and dropped in chunks of positions. Because the head is frozen, the
derivative of each log-probability by its position's features can be computed in the same visit:

    d logp / d logits = onehot(target) - softmax(logits),    d logp / d features = its product with the head

and is kept as one (M, D) array. The backward pass is then a multiplication; no chunk is made twice. This
holds for any frozen head (dense, tied, quantised, soft-capped, scaled): its own derivative does the product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_align.backends.mlx.cpu import exp

Head = Callable[[mx.array], mx.array]

BLOCK = 64
CHUNK_LOGITS, CHUNK_LEAST, CHUNK_ROWS = 1 << 20, 64, 16
"""Logits in a CPU's chunk (4 MB in float32, which caches keep from one pass over them to the next: four times
as many took as long, or up to a tenth longer); positions at the least, in all lanes together and in one: a
matrix product with fewer rows wastes its other factor."""
GPU_LOGITS, GPU_TIMES, GPU_SHARE = 1 << 22, 4, 1 / 320
"""A GPU's chunk has so many logits, or up to so many times as many, as far as they stay in float32 below this
share of its memory: some ten such arrays are alive at a time (`habits.HEAD`), 3% of it together. A chunk
of m positions computes m operations for each byte of a 16-bit head that it reads: 64 are about what a Mac can
do while it reads a byte, and 256 what a CUDA card can. This is arithmetic; it was not measured on Metal."""


def chunk_least(lanes: int, *, frugal: bool = False) -> int:
    """How many positions a chunk has at the least, where so many lanes may be at the head together."""
    return CHUNK_ROWS if frugal else max(CHUNK_ROWS, CHUNK_LEAST // lanes // CHUNK_ROWS * CHUNK_ROWS)


def chunk_positions(vocabulary: int, lanes: int = 1, gpu_memory: int = 0, *, frugal: bool = False) -> int:
    """How many positions make a chunk.

    Args:
        vocabulary: V.
        lanes: how many may be at the head together.
        gpu_memory: bytes; 0: on a CPU.
        frugal: whether a CPU is to save memory even where that takes time (at V = 152k and two lanes, up to a
            tenth, for half of the head's memory). A GPU's chunk is a small share of its memory as it is.
    """
    logits = GPU_LOGITS if gpu_memory else CHUNK_LOGITS
    least = max(chunk_least(lanes, frugal=frugal and not gpu_memory), logits // vocabulary // 16 * 16)
    roomy = int(gpu_memory * GPU_SHARE) // (4 * vocabulary) // 16 * 16
    return min(max(least, roomy), GPU_TIMES * least)


def selected_logps(
    head: Head,
    features: mx.array,
    targets: mx.array,
    chunk: int,
    *,
    grad: bool,
    after: Callable[..., None] = lambda *_: None,
) -> mx.array:
    """(M,) float32 log-probabilities of (M,) targets from (M, D) features.

    Args:
        head: (m, D) features -> (m, V) logits; its parameters are taken as constants.
        features: where the head is applied; the result is differentiable by these.
        targets: int32 token ids.
        chunk: positions in a chunk, at least 1.
        grad: whether a derivative will be asked for; without it none is computed.
        after: called with what each chunk comes to (`Stages.after`).
    """
    starts = range(0, features.shape[0], chunk)
    parts = [(features[i : i + chunk], targets[i : i + chunk]) for i in starts]
    if not grad:
        return _without_gradient(head, parts, after)

    def forward(features: mx.array) -> tuple[mx.array, mx.array]:
        logps: list[mx.array] = []
        slopes: list[mx.array] = []
        for start in starts:
            piece = features[start : start + chunk]
            if logps:  # waiting for both: else the chunk before would keep its logits for the other
                piece = mx.depends([piece], [logps[-1], slopes[-1]])[0]
            logp, slope = _logp_and_slope(head, piece, targets[start : start + chunk])
            logps.append(logp)
            slopes.append(slope)
            after(logp, slope)
        return mx.concatenate(logps), mx.concatenate(slopes)

    logps_and_slopes: Any = mx.custom_function(forward)

    @logps_and_slopes.vjp  # type: ignore[untyped-decorator]
    def _(primal: mx.array, cotangents: list[mx.array], outputs: list[mx.array]) -> mx.array:
        return (cotangents[0][:, None] * outputs[1]).astype(primal.dtype)

    logps: mx.array = logps_and_slopes(features)[0]
    return logps


def _without_gradient(
    head: Head, parts: list[tuple[mx.array, mx.array]], after: Callable[..., None]
) -> mx.array:
    logps: list[mx.array] = []
    for features, targets in parts:
        piece = mx.depends([features], [logps[-1]])[0] if logps else features
        logps.append(_Scores(head(piece), targets).logps)
        after(logps[-1])
    return mx.concatenate(logps)


def _logp_and_slope(head: Head, features: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """(m,) log-probabilities, and (m, D) float32 derivatives of each by its own features."""

    def weighted(features: mx.array) -> tuple[mx.array, mx.array]:
        logits = head(features)
        scores = _Scores(mx.stop_gradient(logits), targets)
        # The value means nothing and is never evaluated; its derivative is the head's product wanted.
        return (logits * scores.slopes().astype(logits.dtype)).sum(), scores.logps

    (_, logps), slopes = mx.value_and_grad(weighted)(features)
    return logps, slopes.astype(mx.float32)


class _Scores:
    """(m, V) logits relative to the largest one, and their normaliser, so that no digits are lost.

    The largest logit contributes exactly 1 to the sum of exponentials. Summed with the others it would
    swallow their digits (about 1e-6 a token, always in the same direction), and ORPO takes log(1 - p) of
    almost certain tokens. So the others are summed alone, and log1p adds the 1.
    """

    def __init__(self, logits: mx.array, targets: mx.array) -> None:
        logits = logits.astype(mx.float32)
        self._targets = targets[:, None]
        self._top = logits.argmax(axis=-1, keepdims=True)
        relative = logits - mx.take_along_axis(logits, self._top, axis=-1)
        exps = exp(relative)
        self._others = mx.put_along_axis(exps, self._top, mx.array(0.0), axis=-1)
        self._sum = _sum_by_blocks(self._others)
        picked = mx.take_along_axis(relative, self._targets, axis=-1).squeeze(-1)
        self.logps = picked - mx.log1p(self._sum)

    def slopes(self) -> mx.array:
        """(m, V) d logp / d logits = onehot(target) - exps / (1 + sum).

        Where the target is the largest logit its slope is 1 - p = sum / (1 + sum): written so, it keeps its
        digits when p is almost 1.
        """
        total = (1 + self._sum)[:, None]
        at_target = mx.take_along_axis(self._others, self._targets, axis=-1)
        is_top = self._targets == self._top
        slopes = mx.put_along_axis(-self._others, self._top, mx.array(-1.0), axis=-1)
        slopes = mx.put_along_axis(
            slopes, self._targets, mx.where(is_top, self._sum[:, None], total - at_target), axis=-1
        )
        return slopes / total


def _sum_by_blocks(x: mx.array) -> mx.array:
    """Sum over the last axis in two levels: a running float32 sum over a whole vocabulary loses digits."""
    whole = x.shape[-1] // BLOCK * BLOCK
    blocks = x[..., :whole].reshape(*x.shape[:-1], -1, BLOCK)
    return blocks.sum(axis=-1).sum(axis=-1) + x[..., whole:].sum(axis=-1)

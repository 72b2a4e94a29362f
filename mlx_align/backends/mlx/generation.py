"""Sampling: each prompt is read once, and its whole group decoded together, beside other prompts' groups.

A loop of our own over mlx-lm's caches. Its BatchGenerator normalises the logits of the whole vocabulary for
every token, draws from the global random state, and raises Metal's wired limit, which has been seen to end in
kernel panics.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_align.backends.base import Generation
from mlx_align.backends.completions import Asked, Group, apart, groups_of, results, uniforms, waves
from mlx_align.backends.mlx.arrays import to_numpy
from mlx_align.backends.mlx.caches import after_prompts, take
from mlx_align.backends.mlx.longrope import border, chosen
from mlx_align.backends.mlx.sampling import Sampler

SIDE_BY_SIDE = 32
"""Sequences decoded together: wide enough to be quick, narrow enough for a small Mac's cache."""
SHRINK = 3 / 4
"""Finished sequences leave when no more than this share goes on: seldom enough that caches are not copied and
shapes changed for every one of them, often enough that less than a quarter of the work is wasted."""


def generate(model: nn.Module, asked: Asked, *, together: bool) -> list[list[Generation]]:
    """Continue the prompts; for each its continuations.

    Args:
        model: any of mlx-lm's, dropout off.
        asked: what is wanted.
        together: whether the model allows prompts of several lengths side by side; see
            `caches.trouble_together`.
    """
    groups = groups_of(asked)
    for long, kind in apart(groups, border(model)):
        with chosen(model, long=long):
            for wave in waves(kind, SIDE_BY_SIDE, together=together):
                _decode(model, wave)
    return results(groups)


def _decode(model: nn.Module, groups: list[Group]) -> None:
    """Read each group's prompt once and sample all rows in step."""
    rows = [row for group in groups for row in group]
    sampling = rows[0].asked.sampling
    caches = after_prompts(model, [group[0].prompt_ids for group in groups])
    take(caches, mx.array([place for place, group in enumerate(groups) for _ in group]))
    sampler = Sampler(sampling, [row.prompt_ids for row in rows], uniforms(rows))

    def after(tokens: mx.array, position: int) -> mx.array:
        return sampler(tokens, model(tokens[:, None], cache=caches)[:, -1], position)

    coming = after(mx.array([row.prompt_ids[-1] for row in rows], mx.int32), 0)
    for position in range(1, sampling.max_tokens + 1):
        tokens = coming
        if position < sampling.max_tokens:
            coming = after(tokens, position)
            mx.async_eval(coming)  # type: ignore[no-untyped-call]  # while the tokens before it are looked at
        over = [row.add(token) for row, token in zip(rows, to_numpy(tokens).tolist(), strict=True)]
        going = [place for place, done in enumerate(over) if not done]
        if not going:
            return
        if len(going) <= SHRINK * len(rows):
            rows, kept = [rows[place] for place in going], mx.array(going)
            coming = coming[kept]
            take(caches, kept)
            sampler.take(kept)

"""The one batch shape: prompts, and the branches that continue them.

Every method here is "one prompt, k branches, a loss over the branches' token log-probabilities":
SFT has k = 1, the pair methods k = 2 (chosen, then rejected), GRPO k = G. This module is plain data;
`data.batching` fills it with numpy arrays and each backend converts those to its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

Array = Any
"""A numpy, MLX or torch array: what the losses need of one is in `methods.ops.Ops`."""

CHOSEN, REJECTED = 0, 1
"""Which branch of a pair is which."""


@dataclass(frozen=True)
class Batch:
    """B prompts and their N = B * k branches; the branches of a row are adjacent.

    Attributes:
        prompt_ids: (B, P) int32, right-padded. The shared prefixes.
        prompt_lens: (B,) int32, at least 1. Real tokens in each prompt.
        branch_ids: (N, T) int32, right-padded. The continuations.
        branch_mask: (N, T) float32, 1 where a branch has a token.
        response_mask: (N, T) float32, 1 where the loss reads it: `branch_mask` without the completions that
            a method leaves out.
        branch_row: (N,) int32. Which prompt each branch continues.
        scored: (M,) int32. The places of the flat grid that the head is computed for: first, ascending, every
            one that a mask marks, then others to fill M; none appears twice. The grid has N * T places, for
            the branches' tokens, and, if prompts are scored, B * P for theirs after them.
        ref_logps: (N, T) float32 log-probabilities under the reference policy, or None.
        rows: the B row names ("file:line"), so that an alert can name them.
        advantages: (N,) float32, how much better each branch was than its group; None if nothing is sampled.
        old_logps: (N, T) float32 log-probabilities under the policy that sampled the branches; None: that
            policy is the one that is trained.
        prompt_mask: (B, P) float32, 1 where a prompt's token is scored: all but the first, which nothing
            predicts. None: the method scores no prompts (`Method.scores_prompt`).
        prompt_logps: (B, P) float32 log-probabilities of these tokens under the policy, 0 elsewhere; None
            until there are any (`with_logps`).
    """

    prompt_ids: Array
    prompt_lens: Array
    branch_ids: Array
    branch_mask: Array
    response_mask: Array
    branch_row: Array
    scored: Array
    ref_logps: Array | None
    rows: tuple[str, ...]
    advantages: Array | None = None
    old_logps: Array | None = None
    prompt_mask: Array | None = None
    prompt_logps: Array | None = None

    @property
    def size(self) -> int:
        """B, the number of rows."""
        return len(self.rows)

    @property
    def branches(self) -> int:
        """k, the number of branches of each row."""
        return int(self.branch_ids.shape[0]) // self.size

    def branch(self, x: Array, which: int) -> Array:
        """The rows of a (N, ...) array that belong to branch number `which`: (B, ...)."""
        return x[which :: self.branches]

    def by_row(self, x: Array) -> Array:
        """The values of a (N,) array, each row's branches side by side: (B, k)."""
        return x.reshape(self.size, self.branches)

    def tokens(self) -> int:
        """Real tokens in the batch, each prompt once: the honest unit of throughput."""
        return int(self.prompt_lens.sum()) + int(self.branch_mask.sum())

    def padded(self) -> int:
        """Token slots, padding included: B * P + N * T.

        A backend whose shapes are not compiled may compute fewer, and one that does not share prompts more.
        """
        return int(self.prompt_ids.size + self.branch_ids.size)

    def with_logps(self, grid: Array) -> tuple[Array, Batch]:
        """(N, T) log-probabilities of the branches, and the batch with those of the prompts, if any.

        Args:
            grid: float32, flat, as `scored` counts its places.
        """
        n, width = self.branch_ids.shape
        logps = grid[: n * width].reshape(n, width)
        if self.prompt_mask is None:
            return logps, self
        return logps, replace(self, prompt_logps=grid[n * width :].reshape(self.prompt_mask.shape))

    def map(self, convert: Callable[[Array], Array]) -> Batch:
        """The same batch with every array converted, for example to a framework's own type."""
        changed = {
            f.name: convert(value)
            for f in fields(self)
            if f.name != "rows" and (value := getattr(self, f.name)) is not None
        }
        return replace(self, **changed)

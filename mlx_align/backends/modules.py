"""Which linear layers an adapter goes on: the same choice on every backend."""

from __future__ import annotations

from collections.abc import Iterable

from mlx_align.errors import UsageError

GROUPS = {"attention": ("attn", "attention"), "mlp": ("mlp", "feed_forward", "moe", "ffn")}


def choose_modules(names: Iterable[str], wanted: str | tuple[str, ...]) -> list[str]:
    """The adapted modules' names, relative to a decoder layer ("self_attn.q_proj"), sorted.

    Args:
        names: every linear module of the adapted layers.
        wanted: "all", "attention", "mlp", or names, whole or their last part.

    Raises:
        UsageError: a wanted name fits no module.
    """
    available = sorted(set(names))
    if isinstance(wanted, str):
        marks = GROUPS.get(wanted, ("",))
        keys = [name for name in available if any(mark in name for mark in marks)]
        unmatched = [] if keys else [wanted]
    else:
        keys = [n for n in available if n in wanted or n.rsplit(".", 1)[-1] in wanted]
        unmatched = [w for w in wanted if not any(w in (k, k.rsplit(".", 1)[-1]) for k in keys)]
    if unmatched:
        raise UsageError(
            f"the model's layers have no module '{unmatched[0]}'",
            where="adapter.modules",
            hint=f"They have: {', '.join(available)}.",
        )
    return keys

"""A completion as rewards see it, and the value that one reward gives it."""

from __future__ import annotations

from typing import Any

from mlx_align.rewards import Sampled, Scorer, make_specs


def sampled(completion: str, answer: str | None = None, **known: Any) -> Sampled:
    facts = {"prompt": "Question?", "row": {}, "tokens": len(completion.split()), "truncated": False, **known}
    return Sampled(completion=completion, answer=answer, **facts)


def value(name: str, completion: str, answer: str | None = None, **options: Any) -> float:
    """What a reward with these options gives; NaN where it fails."""
    with Scorer(make_specs([{"name": name, **options}])) as scorer:
        return float(scorer.score([sampled(completion, answer)]).values[0, 0])

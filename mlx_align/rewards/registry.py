"""The rewards, by name. A new one is one file and one line here."""

from __future__ import annotations

from mlx_align.errors import UsageError
from mlx_align.rewards import (
    code,
    exact,
    json,
    judge,
    keywords,
    language,
    length,
    numeric,
    python,
    refusal,
    regex,
    sympy,
)
from mlx_align.rewards import format as blocks
from mlx_align.rewards.base import Reward

REWARDS: dict[str, Reward] = {
    reward.name: reward
    for reward in (
        numeric.REWARD,
        exact.REWARD,
        regex.REWARD,
        blocks.REWARD,
        json.REWARD,
        length.REWARD,
        language.REWARD,
        refusal.REWARD,
        keywords.REWARD,
        sympy.REWARD,
        python.REWARD,
        code.REWARD,
        judge.REWARD,
    )
}


def get(name: str) -> Reward:
    """The reward called `name`.

    Raises:
        UsageError: there is no such reward.
    """
    if name not in REWARDS:
        choices = f"Choose one of: {', '.join(REWARDS)}; or name a function of yours: file.py:function."
        raise UsageError(f"unknown reward '{name}'", hint=choices)
    return REWARDS[name]

"""Length: 1 at the length wanted, falling in a straight line to 0 at `width` away from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlx_align.rewards.base import Options, Reward, Sampled, pure


class LengthOptions(Options):
    """Which length, and how far from it the value falls to 0."""

    target: int = Field(ge=0, description="the length wanted")
    width: int = Field(ge=1, description="so far from the target the value is 0")
    sides: Literal["both", "longer", "shorter"] = Field(
        default="both",
        description="which completions lose value: those on both sides of the target, only longer ones "
        "(a soft upper limit), or only shorter ones",
    )
    unit: Literal["tokens", "words", "characters"] = Field(default="tokens", description="what is counted")


def length(sampled: Sampled, options: LengthOptions) -> float:
    """max(0, 1 - distance / width); with one side only, the other one has distance 0."""
    over = _measure(sampled, options.unit) - options.target
    distance = {"both": abs(over), "longer": max(0, over), "shorter": max(0, -over)}[options.sides]
    return max(0.0, 1 - distance / options.width)


def _measure(sampled: Sampled, unit: str) -> int:
    if unit == "tokens":
        return sampled.tokens
    return len(sampled.completion.split() if unit == "words" else sampled.completion)


REWARD = Reward("length", "the length wanted", LengthOptions, pure(length))

"""Rewards: what completions are worth. Each kind is one file and one line in `registry`."""

from __future__ import annotations

from mlx_align.rewards.base import Generate, OpenJudge, Options, Reward, RewardError, Sampled, Tools
from mlx_align.rewards.registry import REWARDS, get
from mlx_align.rewards.scoring import Failure, Scored, Scorer
from mlx_align.rewards.specs import Rewarded, Spec, anywhere, check_rows, make_specs, parse_reward

__all__ = [
    "REWARDS",
    "Failure",
    "Generate",
    "OpenJudge",
    "Options",
    "Reward",
    "RewardError",
    "Rewarded",
    "Sampled",
    "Scored",
    "Scorer",
    "Spec",
    "Tools",
    "anywhere",
    "check_rows",
    "get",
    "make_specs",
    "parse_reward",
]

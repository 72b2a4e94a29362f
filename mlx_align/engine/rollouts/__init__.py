"""GRPO's batches: prompts, completions that the policy samples, their rewards, and what is learnt from them.

    prompts     which rows a rollout asks
    sampler     the policy's answers, as ids and as text
    collecting  answers with their rewards, refilled where groups say nothing
    advantages  how much better each answer was than its group
    rollout     what is kept of all that
    batches     what the trainer reads of it; their shapes are in `shapes`
    feed        the whole, by position
    evaluation  rewards on held-out prompts
    telling     what a person hears of a rollout

Beside them `judges` has the models that some rewards ask, `sources` the files that rewards are computed by,
and `wearing` lends a policy another adapter.
"""

from mlx_align.engine.rollouts.feed import RolloutData
from mlx_align.engine.rollouts.judges import Judges
from mlx_align.engine.rollouts.sampler import Sampler
from mlx_align.engine.rollouts.sources import sources

__all__ = ["Judges", "RolloutData", "Sampler", "sources"]

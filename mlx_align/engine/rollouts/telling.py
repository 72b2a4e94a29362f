"""What a person is told of a rollout. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from mlx_align import events
from mlx_align.engine.rollouts.advantages import Floats, signal
from mlx_align.engine.rollouts.collecting import Collected
from mlx_align.engine.rollouts.rollout import Rollout
from mlx_align.methods.grpo import GrpoHyperparameters
from mlx_align.rewards import Failure

MANY = 0.5
"""A share of truncated completions that is worth an alert."""
MOST = 3
"""Different failures that are told of one rollout."""

Told = tuple[str, str, tuple[str, ...]]
"""An alert's code, message and rows."""


def event(
    collected: Collected,
    names: Sequence[str],
    questions: Sequence[str],
    made: Rollout,
    *,
    step: int,
) -> events.Rollout:
    """The rollout in numbers, with its best and its worst completion.

    Args:
        collected: the groups.
        names: of the rewards.
        questions: what the user says in each group's prompt.
        made: what is trained on.
        step: the update that is made of it first.
    """
    totals, values = collected.totals, collected.values
    deviations = [group[np.isfinite(group)].std() for group in totals if np.isfinite(group).any()]
    return events.Rollout(
        step=step,
        number=made.number,
        prompts=len(totals),
        completions=totals.size,
        reward=_facts(totals.reshape(-1)),
        rewards={name: _facts(values[:, which]) for which, name in enumerate(names)},
        spread=float(np.mean(deviations)) if deviations else None,
        advantage_std=float(made.advantages.std()),
        no_signal=1.0 - float(signal(totals).mean()),
        refilled=collected.refilled,
        length_mean=float(made.lengths.mean()),
        length_max=int(made.lengths.max()),
        truncated=float(made.truncated.mean()),
        tokens=collected.tokens,
        seconds=collected.sampling_seconds,
        scoring_seconds=collected.scoring_seconds,
        best=_extreme(collected, names, questions, best=True),
        worst=_extreme(collected, names, questions, best=False),
    )


def _facts(values: Floats) -> events.RewardFacts:
    known = values[np.isfinite(values)]
    if not known.size:
        return events.RewardFacts(mean=None, std=None, failed=values.size)
    return events.RewardFacts(mean=known.mean(), std=known.std(), failed=values.size - known.size)


def _extreme(
    collected: Collected, names: Sequence[str], questions: Sequence[str], *, best: bool
) -> events.Scored | None:
    """The completion with the largest or the smallest reward, None where no reward is known."""
    totals = collected.totals.reshape(-1)
    if not np.isfinite(totals).any():
        return None
    which = int(np.nanargmax(totals) if best else np.nanargmin(totals))
    one = collected.completed[which].sampled
    values = collected.values[which].tolist()
    return events.Scored(
        prompt=questions[which // collected.totals.shape[1]],
        completion=one.completion.strip(),
        rewards=dict(zip(names, values, strict=True)),
        total=float(totals[which]),
        finished=not one.truncated,
    )


def alerts(collected: Collected, hp: GrpoHyperparameters) -> list[Told]:
    """What is wrong with a rollout: failed rewards, nothing to learn from, completions that are cut off."""
    told = failures(collected.failures)
    if not signal(collected.totals).any():
        known = np.isfinite(collected.totals).any()
        why = "a group's completions all have the same reward" if known else "no completion could be scored"
        text = (
            f"No group of this rollout has a signal: {why}. Nothing is learnt from it"
            f"{' but to stay near the reference' if hp.beta else ''}."
        )
        told.append(("no-signal", text, ()))
    cut = float(np.mean([one.sampled.truncated for one in collected.completed]))
    if cut > MANY:
        more = "" if hp.mask_truncated else ", or method.mask_truncated=true,"
        text = f"{cut:.0%} of the completions were cut off. A larger sampling.max_tokens{more} may help."
        told.append(("many-truncated", text, ()))
    return told


def failures(found: Iterable[tuple[str, Failure]]) -> list[Told]:
    """Failed rewards, those with the same message told once; a failed reward counts as unknown, not as 0."""
    rows: dict[tuple[str, str], list[str]] = {}
    for row, failure in found:
        rows.setdefault((failure.reward, failure.message), []).append(row)
    commonest = Counter({key: len(names) for key, names in rows.items()}).most_common(MOST)
    told: list[Told] = []
    for (reward, message), count in commonest:
        times = "" if count == 1 else f" for {count} completions"
        named = tuple(dict.fromkeys(rows[reward, message]))
        told.append(("reward-failed", f"The reward '{reward}' failed{times}: {message}", named))
    if len(rows) > MOST:
        told.append(("reward-failed", f"Rewards failed in {len(rows) - MOST} other ways as well.", ()))
    return told

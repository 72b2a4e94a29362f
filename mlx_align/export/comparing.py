"""Is an export the policy that was trained? The figures, and where the line is drawn.

Distributions are compared over the evidence's tokens and one category for all others. Rounding weights moves
every probability a little; a mistake in an export moves them back towards the base, or somewhere else. So
besides how far the export is from the policy it is asked how much of the way from base to policy it has gone:
for a weak adapter that tells a wrong alpha from rounding where distances cannot.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.export.evidence import Evidence, Reader, unlike

PROBABILITY_LIMITS = {"f32": 1e-3, "f16": 5e-3, "bf16": 0.1}
"""Largest difference of a probability by precision. Another program multiplies and adds in another order: in
float32 that comes to 1e-5, with soft caps to 1e-3; rounding to 11 bits comes to the next. Where both programs
compute in 8 bits the embedded model comes to 0.04; what is wrong with such an export KL and share tell."""

KL_NOISE = {"f32": 2e-6, "f16": 1e-5, "bf16": 1e-3}
"""What rounding alone may come to, in nats. For the embedded model weights in f16 come to 2e-7 and in bf16 to
1e-5; a GPU that computes in bf16 as well rounds at every step."""

KL_LIMITS = {8: 0.02, 6: 0.05, 5: 0.1, 4: 0.5, 3: 1.0, 2: 3.0}
"""Of quantised weights, by bits. Small models lose more than large ones; these are for the smallest."""

MANTISSAS = {"f32": 24, "f16": 11, "bf16": 8.5}
"""Bits of a floating-point number's digits; of eight bits, those of bf16 cost less than integers' do."""

MEASURABLE = 1e-5
"""An adapter whose KL from its base is less than this has no effect that can be looked for in an export."""

KL_SHARE = 0.05
"""How far an export may be from the policy, as a share of what the adapter does."""

SHARE_LIMIT = 0.1
"""How much of what was learnt may be missing from, or be too much in, weights that are not quantised."""

QUANTISED_SHARE_LIMITS = {8: 0.2, 6: 0.2}
"""The same of quantised weights, by bits. Of the embedded model, with adapters of KL 2e-4 to 0.3, right
exports of 8 and 6 bits come to 0.05, or to 1.6 standard errors where that is more."""

COARSE_SHARE_LIMIT = 0.5
"""The same of fewer bits, where an adapter that is missing or there twice can be told, and nothing finer."""

REST = 1e-5
"""Least probability of the tokens that are not looked at, which is known to some 1e-6 only."""

FLOOR = -100.0
"""For tokens that a program calls impossible."""


@dataclass(frozen=True)
class Comparison:
    """Policy, base and export side by side.

    Attributes:
        loader: the program that read the export.
        contexts: how many next tokens were looked at.
        difference: the largest difference of a probability.
        kl: KL(policy || export) in nats, the mean over contexts.
        kl_max: the largest of them.
        effect: KL(policy || base), the mean: what the adapter does.
        share: how much of the way from the base to the policy the export has gone: 0 is the base, 1 the
            policy; None where the adapter does nothing.
        share_error: how well that is known, one standard deviation.
        agreement: the share of contexts in which the likeliest token is the policy's.
        other_tokens: texts that the loader's tokenizer reads as other tokens; None if it has none.
    """

    loader: str
    contexts: int
    difference: float
    kl: float
    kl_max: float
    effect: float
    share: float | None
    share_error: float
    agreement: float
    other_tokens: tuple[str, ...] | None

    @property
    def measurable(self) -> bool:
        """Whether the adapter does anything that can be looked for."""
        return self.effect > MEASURABLE

    @property
    def arrived(self) -> str:
        """`share` for a person, with its error where that is no small one."""
        if self.share is None:
            return "-"
        error = f" ± {self.share_error:.0%}" if self.share_error > SHARE_LIMIT / 4 else ""
        return f"{self.share:.0%}{error}"

    def json(self) -> dict[str, Any]:
        """As values that JSON has: a figure that is not a number is null."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Comparison:
        """Read back what `json` wrote.

        Raises:
            TypeError: it is damaged.
        """
        others = facts["other_tokens"]
        return cls(**{**facts, "other_tokens": None if others is None else tuple(others)})

    def figures(self) -> str:
        """The figures in one line."""
        same = round(self.agreement * self.contexts)
        arrived = "" if self.share is None else f"; {self.arrived} of what was learnt is in it"
        return (
            f"largest difference of a probability {self.difference:.2g}, "
            f"KL {self.kl:.2g} (the adapter's own: {self.effect:.2g}), "
            f"likeliest token the same in {same} of {self.contexts}{arrived}"
        )


@dataclass(frozen=True)
class Verdict:
    """What a comparison means; verified if there are no problems."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def compare(evidence: Evidence, reader: Reader) -> Comparison:
    """Ask a program what the evidence holds the policy's answers to.

    Raises:
        AlignError: the program cannot answer.
    """
    logps = reader.next_logps(evidence.contexts, evidence.tokens)
    policy, base, export = (_categories(table) for table in (evidence.policy, evidence.base, logps))
    share, error = _share(evidence, logps)
    kls, effect = _kl(policy, export), float(np.mean(_kl(policy, base)))
    return Comparison(
        loader=reader.name,
        contexts=len(evidence.contexts),
        difference=float(np.max(np.abs(policy - export))),
        kl=float(np.mean(kls)),
        kl_max=float(np.max(kls)),
        effect=effect,
        share=share if effect > MEASURABLE else None,
        share_error=error,
        agreement=float(np.mean(export[:, :-1].argmax(axis=1) == policy[:, :-1].argmax(axis=1))),
        other_tokens=unlike(evidence, reader.encode),
    )


def _categories(logps: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, K + 1) probabilities from (N, K) log-probabilities, the last column for all other tokens."""
    listed = np.exp(np.maximum(logps.astype(np.float64), FLOOR))  # NaN stays NaN
    rest = np.maximum(1 - listed.sum(axis=1, keepdims=True), REST)
    whole = np.concatenate([listed, rest], axis=1)
    whole /= whole.sum(axis=1, keepdims=True)
    return whole


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) KL(p || q) in nats."""
    kls: NDArray[np.float64] = np.sum(p * (np.log(p) - np.log(q)), axis=1)
    return kls


def _share(evidence: Evidence, logps: NDArray[np.float32]) -> tuple[float, float]:
    """How far the export is on the way from base to policy, by least squares, and its standard deviation.

    The points are log-probabilities, weighted by the policy's probabilities and centred in each context. What
    is left beside the way is noise; contexts count as independent of each other, each by what the adapter
    does in it.
    """
    tables = (evidence.policy, evidence.base, logps)
    policy, base, export = (np.maximum(table.astype(np.float64), FLOOR) for table in tables)
    weights = np.exp(policy)
    weights /= weights.sum(axis=1, keepdims=True)

    def centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        around: NDArray[np.float64] = values - np.sum(weights * values, axis=1, keepdims=True)
        return around

    way, gone = centred(policy - base), centred(export - base)
    lengths = np.sum(weights * way**2, axis=1)
    total = float(lengths.sum())
    if total == 0:
        return 0.0, math.inf
    share = float(np.sum(weights * gone * way)) / total
    beside = float(np.sum(weights * (gone - share * way) ** 2)) / total
    return share, math.sqrt(beside * float(np.sum(lengths**2))) / total


def coarser(*precisions: str) -> str:
    """The one with the fewest digits."""
    return min(precisions, key=lambda name: bits_of(name) or MANTISSAS[name])


def bits_of(precision: str) -> int | None:
    """Bits of a quantised type ("q4_k_m", "8-bit"); None for floating point."""
    found = re.match(r"(?:[it]?q|mxfp|nvfp)?(\d)(?!\d)", precision.lower())
    return int(found.group(1)) if found else None


def judge(comparison: Comparison, precision: str) -> Verdict:
    """Draw the line.

    Args:
        comparison: the figures.
        precision: the coarsest of what the policy was computed in, the weights are stored in and the program
            computes in: "f32", "f16", "bf16", a type of GGUF, or "4-bit" and so on.
    """
    if not math.isfinite(comparison.kl + comparison.difference):
        return Verdict(("the program's answers are not numbers",), ())
    bits = bits_of(precision)
    found = _plain_problems(comparison, precision) if bits is None else _quantised_problems(comparison, bits)
    problems = [*_missing(comparison), *found]
    if comparison.other_tokens:
        problems.append(f"its tokenizer reads {comparison.other_tokens[0]!r} as other tokens")
    return Verdict(tuple(problems), _warnings(comparison, bits))


def _missing(comparison: Comparison) -> list[str]:
    share = comparison.share
    if share is None or share + 3 * comparison.share_error >= 0.5:
        return []
    return [f"the adapter is not in it: {max(share, 0.0):.0%} of the way from the base to the trained model"]


def _plain_problems(comparison: Comparison, precision: str) -> list[str]:
    problems = []
    limit = PROBABILITY_LIMITS[precision]
    if comparison.difference > limit:
        problems.append(
            f"a probability differs by {comparison.difference:.2g}; {precision} may come to {limit:g}"
        )
    allowed = KL_SHARE * comparison.effect + KL_NOISE[precision]
    if comparison.kl > allowed:
        problems.append(f"KL is {comparison.kl:.2g}; {allowed:.2g} is allowed for this adapter")
    share = comparison.share
    if share is not None and abs(share - 1) > SHARE_LIMIT + 3 * comparison.share_error:
        problems.append(f"the adapter works with {share:.0%} of its strength")
    return problems


def _quantised_problems(comparison: Comparison, bits: int) -> list[str]:
    problems, limit, share = [], KL_LIMITS.get(bits, KL_LIMITS[2]), comparison.share
    if comparison.kl > limit:
        problems.append(f"KL is {comparison.kl:.2g}; {limit:g} is allowed for weights of {bits} bits")
    most = QUANTISED_SHARE_LIMITS.get(bits, COARSE_SHARE_LIMIT)
    if share is not None and abs(share - 1) > most + 3 * comparison.share_error:
        problems.append(f"the adapter works with {share:.0%} of its strength")
    return problems


def _warnings(comparison: Comparison, bits: int | None) -> tuple[str, ...]:
    if not comparison.measurable:
        return ("the adapter does too little to be looked for: only that it is no harm was verified",)
    if bits is not None and comparison.kl > comparison.effect:
        return (
            f"quantising changes more than what was learnt (KL {comparison.kl:.2g} against "
            f"{comparison.effect:.2g}): choose more bits, or train longer",
        )
    return ()

"""Evidence and the line that is drawn: right exports pass, each kind of mistake is named."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_align.errors import AlignError
from mlx_align.export.comparing import PROBABILITY_LIMITS, Comparison, bits_of, coarser, compare, judge
from mlx_align.export.evidence import TOKENS, Evidence, contexts, likeliest

N, VOCABULARY = 24, 300


def normalised(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


class Made:
    """A base, what an adapter adds to its logits, and an export made of both."""

    def __init__(self, strength: float = 0.5, seed: int = 0, sharp: float = 2.5) -> None:
        self.rng = np.random.default_rng(seed)
        self.logits = self.rng.normal(0, sharp, (N, VOCABULARY))
        self.learnt = strength * self.rng.normal(0, 1, (N, VOCABULARY))
        policy = normalised(self.logits + self.learnt).astype(np.float32)
        tokens = likeliest(policy)
        self.evidence = Evidence(
            contexts=tuple((number, 7) for number in range(N)),
            tokens=tokens,
            policy=np.take_along_axis(policy, tokens, axis=1),
            base=np.take_along_axis(normalised(self.logits).astype(np.float32), tokens, axis=1),
            texts=(("Hello 12", (5, 6, 7)),),
            precision="f32",
            device="mlx:cpu",
        )

    def read(self, share: float = 1.0, noise: float = 0.0, ids: list[int] | None = None) -> Comparison:
        """An export that has gone so far from base to policy, with noise of this deviation in its logits."""
        logits = self.logits + share * self.learnt + noise * self.rng.normal(0, 1, (N, VOCABULARY))
        return compare(self.evidence, Answers(normalised(logits), ids if ids is not None else [5, 6, 7]))


class Answers:
    """A reader that knows its answers."""

    name = "a table"

    def __init__(self, logps: NDArray[np.float64], ids: list[int]) -> None:
        self._logps, self._ids = logps, ids

    def next_logps(self, prompts: Sequence[Sequence[int]], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        assert len(prompts) == N
        return np.take_along_axis(self._logps, tokens, axis=1).astype(np.float32)

    def encode(self, text: str) -> list[int] | None:
        return self._ids or None


def test_the_figures_are_the_definitions() -> None:
    made = Made()
    got = made.read(share=0.25)
    policy, base, export = (
        np.exp(normalised(made.logits + share * made.learnt)) for share in (1.0, 0.0, 0.25)
    )

    def kl(q: NDArray[np.float64]) -> NDArray[np.float64]:
        """Over the listed tokens and the others as one."""
        rows = []
        for p_row, q_row, listed in zip(policy, q, made.evidence.tokens, strict=True):
            p, q_ = (np.append(row[listed], 1 - row[listed].sum()) for row in (p_row, q_row))
            rows.append(float(np.sum(p * np.log(p / q_))))
        return np.array(rows)

    assert got.kl == pytest.approx(kl(export).mean(), rel=1e-3)
    assert got.kl_max == pytest.approx(kl(export).max(), rel=1e-3)
    assert got.effect == pytest.approx(kl(base).mean(), rel=1e-3)
    listed = np.take_along_axis(np.abs(policy - export), made.evidence.tokens, axis=1)
    assert got.difference == pytest.approx(listed.max(), rel=1e-3)
    agree = np.mean(policy.argmax(axis=1) == export.argmax(axis=1))
    assert got.agreement == pytest.approx(agree, abs=1 / N)
    assert got.share == pytest.approx(0.25, abs=0.01)
    assert got.other_tokens == ()
    assert "25% of what was learnt is in it" in got.figures()
    assert "±" in made.read(noise=2.0).arrived


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16", "q8_0", "4-bit"])
@pytest.mark.parametrize("strength", [1.0, 0.1, 0.02, 0.0])
def test_the_policy_itself_passes(precision: str, strength: float) -> None:
    verdict = judge(Made(strength).read(), precision)
    assert verdict.problems == ()
    assert bool(verdict.warnings) == (strength == 0.0), "an adapter that does nothing is said to do nothing"


@pytest.mark.parametrize(("precision", "noise"), [("f32", 1e-4), ("f16", 1e-3), ("bf16", 1e-2)])
def test_rounding_passes(precision: str, noise: float) -> None:
    assert judge(Made(0.3).read(noise=noise), precision).problems == ()


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16", "q8_0", "q4_k_m"])
@pytest.mark.parametrize("strength", [1.0, 0.1, 0.03])
def test_the_base_never_passes(precision: str, strength: float) -> None:
    verdict = judge(Made(strength).read(share=0.0), precision)
    assert any("the adapter is not in it" in problem for problem in verdict.problems)


@pytest.mark.parametrize("share", [0.5, 0.7, 1.4, 2.0])
@pytest.mark.parametrize("strength", [0.5, 0.1, 0.02])
def test_another_alpha_does_not_pass(share: float, strength: float) -> None:
    """Although, weak as it is, no probability differs by more than rounding to bf16 may come to."""
    problems = judge(Made(strength).read(share=share, noise=1e-4), "f32").problems
    assert problems
    weak = judge(Made(0.02).read(share=share, noise=1e-3), "bf16").problems
    assert any("of its strength" in problem or "not in it" in problem for problem in weak)


@pytest.mark.parametrize(
    ("precision", "passes"), [("q8_0", 1.1), ("q6_k", 1.1), ("q4_0", 1.2), ("4-bit", 1.2)]
)
def test_an_adapter_that_is_there_twice_does_not_pass(precision: str, passes: float) -> None:
    """Although, weak as it is, KL is below what so few bits may come to."""
    made = Made(0.1)
    assert any("200% of its strength" in one for one in judge(made.read(share=2.0), precision).problems)
    assert judge(made.read(share=passes), precision).problems == ()


@pytest.mark.parametrize("precision", ["q8_0", "8-bit", "q6_k"])
@pytest.mark.parametrize("share", [0.7, 1.3])
def test_another_alpha_does_not_pass_in_weights_of_many_bits(precision: str, share: float) -> None:
    problems = judge(Made(0.1).read(share=share, noise=1e-3), precision).problems
    assert problems == (f"the adapter works with {share:.0%} of its strength",)
    assert judge(Made(0.1).read(share=share, noise=1e-3), "q4_k_m").problems == ()
    assert judge(Made(0.01).read(share=share, noise=0.05), precision).problems == (), "it cannot be told"


def test_a_change_in_another_direction_does_not_pass() -> None:
    """As from rows in a wrong order: of the right size, but not what was learnt."""
    made = Made(0.5)
    made.learnt = made.learnt[:, ::-1]
    problems = judge(made.read(), "f32").problems
    assert len(problems) >= 2


def test_something_beside_what_was_learnt_does_not_pass() -> None:
    """As from one module of many with its rows in a wrong order: all of it is there, and something else.

    Where no token is likely, no probability differs by much.
    """
    (problem,) = judge(Made(0.5, sharp=0.5).read(noise=0.2), "bf16").problems
    assert problem.startswith("KL is")


def test_quantising_that_eats_the_adapter_is_warned_of() -> None:
    got = Made(0.1).read(noise=0.2)
    verdict = judge(got, "q5_1")
    assert verdict.problems == ()
    assert got.kl > got.effect
    assert any("choose more bits" in warning for warning in verdict.warnings)
    assert any("8 bits" in problem for problem in judge(Made(0.1).read(noise=0.5), "q8_0").problems)


def test_an_adapter_that_does_nothing_excuses_nothing() -> None:
    read = Made(0.0).read(noise=0.12)
    assert read.difference < PROBABILITY_LIMITS["bf16"]
    assert any("KL" in problem for problem in judge(read, "bf16").problems)


def test_answers_that_are_not_numbers_do_not_pass() -> None:
    made = Made()
    got = compare(made.evidence, Answers(np.full((N, VOCABULARY), np.nan), [5, 6, 7]))
    assert judge(got, "bf16").problems == ("the program's answers are not numbers",)
    assert json.loads(json.dumps(got.json(), allow_nan=False))["kl"] is None


def test_impossible_tokens_are_far_away_but_finite() -> None:
    made = Made()
    got = compare(made.evidence, Answers(np.full((N, VOCABULARY), -np.inf), [5, 6, 7]))
    assert np.isfinite(got.kl)
    assert judge(got, "q4_0").problems


def test_another_tokenizer_does_not_pass() -> None:
    problems = judge(Made().read(ids=[5, 6]), "f32").problems
    assert problems == ("its tokenizer reads 'Hello 12' as other tokens",)
    assert Made().read(ids=[]).other_tokens is None
    assert judge(Made().read(ids=[]), "f32").problems == ()


def test_what_is_coarser() -> None:
    assert coarser("f32", "bf16", "f16") == "bf16"
    assert coarser("f32", "f16") == "f16"
    assert coarser("f32", "q8_0", "bf16") == "q8_0"
    assert coarser("f16", "q6_k", "q4_k", "f32") == "q4_k"
    assert coarser("4-bit", "f32") == "4-bit"
    assert [bits_of(name) for name in ("f16", "bf16", "q5_k_m", "iq4_xs", "8-bit", "mxfp4")] == [
        None, None, 5, 4, 8, 4
    ]  # fmt: skip


def test_contexts_go_as_far_as_the_answers() -> None:
    answers = [list(range(100, 116)), [1, 2, 3, 4], []]
    assert contexts([(9,), (8, 8), (9,)], answers) == (
        (9,), (9, 100, 101, 102, 103), (9, *range(100, 108)), (9, *range(100, 116)),
        (8, 8), (8, 8, 1, 2, 3, 4),
    )  # fmt: skip


def test_the_likeliest_tokens() -> None:
    logps = normalised(np.random.default_rng(0).normal(size=(3, 200))).astype(np.float32)
    tokens = likeliest(logps)
    assert tokens.shape == (3, TOKENS)
    assert (np.diff(np.take_along_axis(logps, tokens, axis=1)) <= 0).all()
    assert likeliest(logps[:, :10]).shape == (3, 10), "all of a small vocabulary"


def test_evidence_survives_json() -> None:
    evidence = Made().evidence
    text = json.dumps(evidence.json(), allow_nan=False)
    again = Evidence.from_json(json.loads(text))
    np.testing.assert_array_equal(again.tokens, evidence.tokens)
    np.testing.assert_allclose(again.policy, evidence.policy, atol=1e-6)
    np.testing.assert_allclose(again.base, evidence.base, atol=1e-6)
    assert (again.contexts, again.texts) == (evidence.contexts, evidence.texts)
    assert (again.precision, again.device) == ("f32", "mlx:cpu")


@pytest.mark.parametrize("change", ["drop", "short", "text"])
def test_damaged_evidence_is_refused(change: str) -> None:
    facts = Made().evidence.json()
    if change == "drop":
        del facts["base"]
    elif change == "short":
        facts["policy"] = facts["policy"][1:]
    else:
        facts["tokens"] = "many"
    with pytest.raises(AlignError, match="evidence"):
        Evidence.from_json(facts)

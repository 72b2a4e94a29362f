"""LongRoPE: a sequence goes through the factors that its length asks for, however it is read."""

from __future__ import annotations

import importlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_lm.models.rope_utils import SuScaledRoPE

from mlx_align.backends.base import MemoryUse, Sampling
from mlx_align.backends.completions import Asked
from mlx_align.backends.mlx import caches, server
from mlx_align.backends.mlx.caches import trouble_together
from mlx_align.backends.mlx.generation import generate
from mlx_align.backends.mlx.longrope import NOTE, LongRoPE, border, chosen, positions, settle, understood
from mlx_align.backends.mlx.policy import MlxPolicy
from mlx_align.backends.mlx.probe import choose
from mlx_align.backends.positions import Positions
from mlx_align.data import Example, collate

BORDER, SIZE = 16, 8
SHORT, LONG = [1.0, 1.5, 2.0, 3.0], [1.0, 4.0, 9.0, 16.0]
FACTS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 200,
    "max_position_embeddings": 64,
    "num_local_experts": 4,
}
LOUDNESS = {"phi3": {}, "phimoe": {"short_mscale": 1.1, "long_mscale": 1.3}}


@pytest.fixture(autouse=True)
def _on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


def build(kind: str = "phi3", *, longest_short: int = BORDER, ours: bool = True) -> nn.Module:
    """A random model whose attention is sharp, with our rotation or mlx-lm's."""
    mx.random.seed(1)
    file = importlib.import_module(f"mlx_lm.models.{kind}")
    factors = {"type": "longrope", "short_factor": SHORT, "long_factor": LONG, **LOUDNESS[kind]}
    stretched = {"rope_scaling": factors, "original_max_position_embeddings": longest_short}
    with understood() if ours else nullcontext():
        model = file.Model(file.ModelArgs.from_dict({"model_type": kind, **FACTS, **stretched}))
    model.update(tree_map(lambda x: x * 3 if x.ndim > 1 else x, model.parameters()))
    return model.eval()


def turned(x: np.ndarray, first: int, factors: list[float], loudness: float) -> np.ndarray:
    """(L, SIZE), by the formula: halves are turned against each other, of the first position on."""
    angles = (first + np.arange(len(x)))[:, None] / (
        np.array(factors) * 100.0 ** (np.arange(0, SIZE, 2) / SIZE)
    )
    left, right = loudness * x[:, : SIZE // 2], loudness * x[:, SIZE // 2 :]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=1)


def rope(**loudness: float) -> LongRoPE:
    with understood():
        return SuScaledRoPE(SIZE, 100.0, 64, BORDER, SHORT, LONG, **loudness)


@pytest.mark.parametrize(
    ("given", "loud_short", "loud_long"),
    [({}, 1.5**0.5, 1.5**0.5), ({"short_mscale": 1.1, "long_mscale": 1.3}, 1.1, 1.3)],
)
def test_rows_are_turned_by_their_own_list(
    given: dict[str, float], loud_short: float, loud_long: float
) -> None:
    x = np.random.default_rng(0).normal(size=(3, 1, 5, SIZE)).astype(np.float32)
    want = {
        11: turned(x[0, 0], 11, SHORT, loud_short),  # its last token is the 16th
        12: turned(x[1, 0], 12, LONG, loud_long),
        0: turned(x[2, 0], 0, SHORT, loud_short),
    }
    made = rope(**given)
    together = np.array(made(mx.array(x), offset=mx.array(list(want))))
    for row, (first, rows) in enumerate(want.items()):
        alone = np.array(made(mx.array(x[row : row + 1]), offset=first))
        np.testing.assert_allclose(alone[0, 0], rows, atol=1e-5)
        np.testing.assert_allclose(together[row, 0], rows, atol=1e-5)


def test_a_server_of_mlx_lms_own_model_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "_load", lambda folder, model_config: folder)
    for long, told in ((LONG, NOTE + "\n"), (SHORT, "")):
        scaling = {"type": "longrope", "short_factor": SHORT, "long_factor": long}
        (tmp_path / "config.json").write_text(json.dumps({"rope_scaling": scaling}))
        assert server.load(str(tmp_path)) == str(tmp_path)
        assert capsys.readouterr().err == told


def test_mlx_lm_keeps_its_own() -> None:
    with pytest.raises(TypeError), understood():
        SuScaledRoPE()
    assert type(SuScaledRoPE(SIZE)) is SuScaledRoPE
    assert border(build(ours=False)) == float("inf")


def test_how_it_chooses_is_known_of_a_model() -> None:
    model = build()
    assert positions(model) == Positions(BORDER, None)
    settle(model, BORDER + 1)
    assert positions(model) == Positions(BORDER, True)
    assert positions(build(ours=False)) is None


def test_one_list_twice_is_no_choice() -> None:
    with understood():
        assert type(SuScaledRoPE(SIZE, 100.0, 64, BORDER, SHORT, SHORT)) is SuScaledRoPE
        loud = SuScaledRoPE(SIZE, 100.0, 64, BORDER, SHORT, SHORT, short_mscale=1.1, long_mscale=1.3)
    assert type(loud) is LongRoPE


def examples() -> list[Example]:
    rng = np.random.default_rng(0)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, 199, n).tolist())

    lengths = ((15, 4, 9), (10, 8, 12), (20, 5, 3))
    return [
        Example(f"d:{n}", ids(p), (ids(c), ids(r)), "", "", ("", "")) for n, (p, c, r) in enumerate(lengths)
    ]


def logps_alone(model: nn.Module, rows: list[Example]) -> np.ndarray:
    found = []
    for example in rows:
        for branch in example.branch_ids:
            ids = mx.array([[*example.prompt_ids, *branch]])
            losses = nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:], reduction="none")
            found.append(np.array(-losses[0, len(example.prompt_ids) - 1 :]))
    return np.concatenate(found)


@pytest.mark.parametrize("longest_short", [BORDER, 64])
@pytest.mark.parametrize("kind", LOUDNESS)
def test_a_batch_is_read_as_its_sequences_alone(kind: str, longest_short: int) -> None:
    model, theirs = (
        build(kind, longest_short=longest_short),
        build(kind, longest_short=longest_short, ours=False),
    )
    rows = examples()
    batch, want, long = collate(rows), logps_alone(model, rows), longest_short == BORDER
    assert np.allclose(want, logps_alone(theirs, rows), atol=1e-4) == long  # mlx-lm has the long list only
    reading = choose(model)
    assert (reading.notes, reading.forward.shared) == ((), True)
    assert ("prefixes" in reading.forward.inputs(batch)) != long
    policy = MlxPolicy(model, {}, None, lambda: MemoryUse(0, 0, 0), compiled=False, checkpointing="none")
    np.testing.assert_allclose(policy.logps(batch)[batch.branch_mask > 0], want, atol=2e-5)


@pytest.mark.parametrize("longest", [BORDER, BORDER + 1])
def test_a_run_reads_every_row_alike(longest: int) -> None:
    """By the longest that may come: in a wide batch, as a branch of a shared prompt, as an answer."""
    model, plain, rows, long = build(), build(), examples(), longest > BORDER
    rows.append(Example("d:short", (5, 6, 7), ((8, 9), (10,)), "", "", ("", "")))
    settle(model, longest)
    with chosen(plain, long=long):
        want = logps_alone(plain, rows)
    batch, forward = collate(rows), choose(model).forward
    assert "prefixes" in forward.inputs(batch)
    policy = MlxPolicy(model, {}, None, lambda: MemoryUse(0, 0, 0), compiled=False, checkpointing="none")
    np.testing.assert_allclose(policy.logps(batch)[batch.branch_mask > 0], want, atol=2e-5)
    ids = [3, 5, 7]
    asked = Asked([list(ids)], Sampling(max_tokens=20), [], 1, None, 0)
    ((answer,),) = generate(model, asked, together=True)
    with chosen(plain, long=long):
        for _ in range(20):
            ids.append(int(plain(mx.array([ids]))[0, -1].argmax()))
    assert list(answer.token_ids) == ids[3:]


def test_an_answer_is_made_with_one_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """That which it could come to need; a prompt in pieces, and answers side by side, are no exception."""
    monkeypatch.setattr(caches, "TOKENS_AT_A_TIME", 6)
    model, rng = build(), np.random.default_rng(3)
    assert trouble_together(model) is None
    prompts = [rng.integers(1, 199, length).tolist() for length in (4, 8, 9, 30)]
    asked = Asked(prompts, Sampling(max_tokens=8), [], 1, None, 0)
    answers = generate(model, asked, together=True)
    for prompt, (answer,) in zip(prompts, answers, strict=True):
        ids = list(prompt)
        with chosen(model, long=len(prompt) + 8 > BORDER):
            for _ in range(8):
                ids.append(int(model(mx.array([ids]))[0, -1].argmax()))
        assert list(answer.token_ids) == ids[len(prompt) :], len(prompt)

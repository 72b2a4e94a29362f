"""Groups of several branches, as GRPO has them, and windows that are not in a model's masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlx_align.backends import sequences
from mlx_align.backends.mlx.probe import choose
from mlx_align.backends.parts import divide
from mlx_align.config import AdapterConfig
from mlx_align.data import Example, collate
from tests import support
from tests.unit.backends.mlx_models import SHARED, WINDOW, build, with_lora
from tests.unit.backends.test_mlx_forward import alone, assert_same, read, weights


def groups() -> list[Example]:
    """Rows of four branches, some much shorter than others."""
    rng = np.random.default_rng(1)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, 255, n).tolist())

    lengths = ((17, (60, 5, 30, 2)), (9, (25, 50, 1, 12)))
    return [
        Example(f"g:{i}", ids(p), tuple(map(ids, branches)), "", "", ("",) * 4)
        for i, (p, branches) in enumerate(lengths)
    ]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("name", ["llama with windows", "qwen3", "gemma3_text", "gemma4_text", "hunyuan"])
def test_groups_equal_single_sequences(name: str, ragged: bool, shared: bool) -> None:
    kind, facts = SHARED[name]
    model = with_lora(build(kind, **facts))
    forward = replace(choose(model).forward, shared=shared, ragged=ragged)
    rows = groups()
    (part,) = divide(collate(rows), 1)
    assert len(forward.inputs(part.batch)["ids"]) == (2 if ragged else 1)
    weight = weights(part.batch)
    assert_same(read(model, forward, part.batch, weight), alone(model, rows, weight))


@pytest.mark.parametrize(("kind", "apart"), [("lora", 2), ("dora", 1)])
def test_a_cpu_reads_a_much_shorter_answer_apart(
    kind: str, apart: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where each call makes a layer's weights."""
    made: list[int] = []

    def counted(*args: Any, **options: Any) -> list[sequences.Group]:
        found = sequences.groups(*args, **options)
        made.append(len(found))
        return found

    monkeypatch.setattr("mlx_align.backends.mlx.forward.groups", counted)
    policy = support.policy(AdapterConfig(rank=4, type=kind))
    policy.logps(collate([replace(groups()[0], branch_ids=groups()[0].branch_ids[:2], answers=("", ""))]))
    assert made == [apart]


def test_windows_that_are_not_in_the_masks_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are longer than the tiny batch, which cannot tell: the model's own caches do."""
    kind, facts = SHARED["llama with windows"]
    model = build(kind, **{**facts, "sliding_window": 8 * WINDOW})
    assert choose(model).forward.shared
    forget_window(monkeypatch, kind)
    reading = choose(model)
    assert not reading.forward.shared
    assert "windows are not part of its masks" in reading.notes[-1]


def forget_window(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    import importlib

    file = importlib.import_module(f"mlx_lm.models.{kind}")
    original = file.create_attention_mask

    def causal(h: Any, cache: Any = None, **others: Any) -> Any:
        return original(h, cache)

    monkeypatch.setattr(file, "create_attention_mask", causal)

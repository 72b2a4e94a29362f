"""A model card that the hub's own reader understands, and that gives nothing private away."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from mlx_align.events import Eval, RunStarted, Step
from mlx_align.export.card import USE, Card, write
from mlx_align.export.provenance import Provenance
from mlx_align.run_state import RunState, reduce

CONFIG = """\
[method]
name = "orpo"
beta = 0.1
[model]
path = "/home/ann/models/secret"
[data]
path = "/home/ann/letters.jsonl"
max_length = 1024
[adapter]
type = "lora"
rank = 16
scale = 2.0
modules = "all"
start = "/home/ann/old"
[optim]
lr = 5e-5
[sampling]
temperature = 1.0
[runs]
folder = "/home/ann/runs"
"""
PROVENANCE = Provenance(
    run="20260101-orpo-tiny",
    method="orpo",
    base="org/tiny-1.5B",
    base_commit="c" * 40,
    base_digest="b" * 64,
    adapter_digest="a" * 64,
    data_fingerprint="d" * 64,
    step=50,
    config=CONFIG,
    versions={"mlx": "0.32.0", "mlx_align": "0.1"},
    metrics={"loss": 0.51234, "accuracy": 0.875},
)


def card(**changes: Any) -> str:
    facts = {"provenance": PROVENANCE, "target": "peft", "repo": "me/tiny-orpo", "verification": "verified"}
    return Card(**{**facts, **changes}).text()


def front(text: str) -> dict[str, Any]:
    """What the hub's library reads from the front matter."""
    facts: dict[str, Any] = ModelCard(text).data.to_dict()
    return facts


def cells(text: str) -> dict[str, tuple[str, ...]]:
    """First cell of each table row -> the others."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {first: tuple(others) for first, *others in rows}


def run() -> RunState:
    state = RunState()
    for event in (
        RunStarted(
            attempt=1, method="orpo", model="m", data="/home/ann/letters.jsonl", backend="mlx", device="cpu",
            pid=1, total_steps=2, train_rows=1200, valid_rows=64, trainable_parameters=10,
        ),
        Eval(attempt=1, step=0, rows=64, metrics={"loss": 0.7, "accuracy": None}),
        Step(attempt=1, step=1, epoch=0.5, loss=0.6, learning_rate=1e-4, grad_norm=1.0),
    ):  # fmt: skip
        state = reduce(state, event)
    return state


def test_the_hub_reads_its_front_matter() -> None:
    assert front(card()) == {
        "base_model": "org/tiny-1.5B",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["mlx-align", "orpo", "lora"],
    }


@pytest.mark.parametrize(
    ("target", "library", "relation"),
    [
        ("mlx", "mlx", "adapter"),
        ("mlx-fused", "mlx", "finetune"),
        ("hf", "transformers", "finetune"),
        ("gguf", None, "finetune"),
        ("gguf-adapter", None, "adapter"),
    ],
)
def test_each_format_says_what_it_is(target: str, library: str | None, relation: str) -> None:
    found = front(card(target=target, gguf="tiny-f16.gguf"))
    assert found.get("library_name") == library
    assert found["base_model_relation"] == relation
    assert "license" not in found


def test_a_local_base_is_none_of_the_hubs() -> None:
    text = card(provenance=replace(PROVENANCE, base="my: [model]", base_commit=None))
    assert "base_model" not in front(text)
    assert "`my: [model]`" in text
    assert "huggingface.co" not in text
    text = card(provenance=replace(PROVENANCE, base="models/Qwen3-0.6B", base_commit=None))
    assert "base_model" not in front(text), "a folder that is called as a repository might be"
    assert "huggingface.co" not in text


@pytest.mark.parametrize("target", USE)
def test_each_format_says_how_to_use_it(target: str) -> None:
    text = card(target=target, gguf="tiny-f16.gguf")
    usage = text.partition("## How to use it")[2].partition("## How it was trained")[0]
    assert "me/tiny-orpo" in usage
    assert ("tiny-f16.gguf" in usage) == (target == "gguf-adapter")
    assert ("org/tiny-1.5B" in usage) == (target in ("mlx", "peft", "gguf-adapter"))


def test_what_it_tells_of_the_training() -> None:
    table = cells(card())
    assert table["method.beta"] == ("`0.1`",)
    assert table["adapter.rank"] == ("`16`",)
    assert table["optim.lr"] == ("`5e-05`",)
    assert table["data.max_length"] == ("`1024`",)
    assert not any(key.startswith("sampling") for key in table)
    assert table["base"] == (f"`org/tiny-1.5B` at `{'c' * 40}`",)
    assert table["trained with"] == ("mlx 0.32.0, mlx\\_align 0.1",)


def test_it_tells_with_which_position_factors() -> None:
    read = replace(PROVENANCE, positions={"list": "short", "border": 4096})
    (told,) = cells(card(provenance=read))["position factors"]
    assert "trained with those for short texts" in told
    assert "4096 tokens" in told
    assert "position factors" not in cells(card())


def test_rewards_by_name_and_how_was_sampled() -> None:
    config = (
        CONFIG + '[[rewards]]\nname = "/home/ann/mine.py:score"\nweight = 0.5\nurl = "http://ann.local"\n'
    )
    text = card(provenance=replace(PROVENANCE, method="grpo", config=config))
    assert cells(text)["reward"] == ("`mine.py:score`, weight 0.5",)
    assert cells(text)["sampling.temperature"] == ("`1.0`",)
    assert "ann" not in text


def test_nothing_private_is_in_it(tmp_path: Path) -> None:
    write(tmp_path, PROVENANCE, "peft", "me/tiny-orpo", "verified", run())
    for name in ("README.md", "curves.svg"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "/home" not in text
        assert "letters" not in text


def test_written_with_the_runs_figures(tmp_path: Path) -> None:
    files = write(
        tmp_path, PROVENANCE, "peft", "me/tiny-orpo", "verified by peft: KL 1e-6 | ok *", run(),
        warnings=("It reads <b>otherwise</b>.",),
    )  # fmt: skip
    assert files == [tmp_path / "README.md", tmp_path / "curves.svg"]
    text = files[0].read_text(encoding="utf-8")
    assert "1,200 rows to train on and 64 held out" in text
    assert cells(text)["`loss`"] == ("0.7", "0.5123")
    assert cells(text)["`accuracy`"] == ("-", "0.875")
    assert "![Training curves](curves.svg)" in text
    assert "verified by peft: KL 1e-6 \\| ok \\*." in text
    usage, _, _ = text.partition("## How it was trained")
    assert usage.rstrip().endswith("**Note:** It reads \\<b\\>otherwise\\</b\\>.")


def test_a_run_without_curves(tmp_path: Path) -> None:
    files = write(tmp_path, PROVENANCE, "hf", "me/tiny-orpo", "not verified", RunState())
    assert files == [tmp_path / "README.md"]
    assert "curves" not in files[0].read_text(encoding="utf-8").lower()


def test_hostile_texts_stay_texts() -> None:
    hostile = "x`\n---\nlicense: mit\n| <script>"
    text = card(provenance=replace(PROVENANCE, base=hostile, run=hostile), verification=hostile)
    assert "license" not in front(text)
    assert text.splitlines().count("---") == 2
    assert "\\<script\\>" in text
    assert "<script>" in text
    assert "<script>" not in re.sub(r"`[^`\n]*`", "", text), "nowhere but in code"

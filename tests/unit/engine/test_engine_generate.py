"""Answers outside a run: greedy ones are those of mlx-lm itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mlx_align.backends.mlx  # noqa: F401  (loads OpenBLAS before mlx)

import mlx_lm  # isort: skip
from mlx_align import embedded
from mlx_align.config import BackendConfig, RunConfig
from mlx_align.engine.generate import generate_text
from mlx_align.errors import UsageError
from tests import support

CONFIG = RunConfig(backend=BackendConfig(device="cpu"))
PROMPTS = [
    "What is 2 + 3?",
    "What is the capital of France?",
    "What is 140 + 27?",
    "How many legs has a spider?",
    "Say hello.",
]


def ask(prompts: list[str] = PROMPTS, adapter: Path | None = None, **options: Any) -> list[str]:
    return generate_text(CONFIG, embedded.model_folder(), adapter, prompts, max_tokens=24, **options)


def by_mlx_lm(prompt: str) -> str:
    model, tokenizer = mlx_lm.load(str(embedded.model_folder()))
    ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
    return str(mlx_lm.generate(model, tokenizer, prompt=ids, max_tokens=24)).strip()


def test_greedy_answers_are_mlx_lms() -> None:
    answers = ask()
    assert answers == [by_mlx_lm(prompt) for prompt in PROMPTS]
    assert all(answers)
    assert len(set(answers)) > 1


def test_an_answer_does_not_depend_on_its_company() -> None:
    answers = ask()
    assert ask() == answers
    assert ask(PROMPTS[::-1]) == answers[::-1]
    assert [ask([prompt])[0] for prompt in PROMPTS] == answers


def test_sampling_is_seeded() -> None:
    same, again, other = (ask(temperature=1.5, seed=seed) for seed in (1, 1, 2))
    assert same == again != other
    assert ask(temperature=1.5, top_p=1e-6, seed=3) == ask(), "nothing but the likeliest token is left"


def test_a_system_message_is_heard() -> None:
    """At least it reaches the model: the likelihoods change."""
    assert ask(system="Answer in one word.", temperature=1.5, seed=1) != ask(temperature=1.5, seed=1)


def test_an_adapter_changes_the_answers(tmp_path: Path, brief: dict[str, Any]) -> None:
    options = {**brief, "train__steps": 4, "checkpoint__keep": 9}
    run = support.new_run(tmp_path / "runs", "sft", **options, optim__lr=5e-2)
    assert support.engine(run) == 0
    fresh, *_, last = run.checkpoints().paths()
    assert ask(adapter=last) != ask()
    assert ask(adapter=fresh) == ask(), "before the first update it changes nothing"


def test_a_folder_that_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="adapter cannot be used") as caught:
        ask(adapter=tmp_path)
    assert caught.value.where == str(tmp_path)

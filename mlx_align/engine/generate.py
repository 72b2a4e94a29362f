"""Answers from a model, with an adapter or without, outside any run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlx_align import backends
from mlx_align.backends.base import Sampling
from mlx_align.config import RunConfig
from mlx_align.data import Message, render_prompt
from mlx_align.engine.tokenizer import load_tokenizer


def generate_text(
    config: RunConfig,
    model: Path,
    adapter: Path | None,
    prompts: Sequence[str],
    *,
    system: str | None = None,
    max_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """Answer each prompt as one user turn.

    Args:
        config: says which backend and device.
        model: a model folder.
        adapter: an adapter folder in mlx-lm's format, or None for the bare model.
        prompts: what the user says.
        system: a system message before it.
        max_tokens: the longest answer.
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 is off.
        seed: seeds the sampling.

    Raises:
        UsageError: model or adapter cannot be used.
        DataError: the chat template refuses the conversation.
    """
    tokenizer = load_tokenizer(model)
    before = [Message(role="system", content=system)] if system else []
    ids = [render_prompt(tokenizer, [*before, Message(role="user", content=prompt)])[1] for prompt in prompts]
    policy = backends.create(config.backend).load_for_generation(model, adapter)
    answers = policy.generate(
        ids,
        sampling=Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p),
        stop_ids=sorted(tokenizer.stop_ids),
        seed=seed,
    )
    return [tokenizer.decode(answer.text_ids).strip() for (answer,) in answers]

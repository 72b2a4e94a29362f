"""Models that score completions, for the reward "judge" (RLAIF)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from mlx_align.backends.base import Backend, Policy, Sampling, State
from mlx_align.data import ChatTokenizer, Message, render_prompt
from mlx_align.engine.rollouts.wearing import wearing
from mlx_align.engine.tokenizer import load_tokenizer
from mlx_align.hub import resolve_model
from mlx_align.rewards import Generate
from mlx_align.rewards.judge import BASE


@dataclass
class Judges:
    """Opens judges.

    Attributes:
        backend: loads those that are another model.
        tokenizer: the trained model's.
        moment: as in `load_tokenizer`, for those that are another model.
    """

    backend: Backend
    tokenizer: ChatTokenizer
    moment: datetime | None = None
    _policy: Policy | None = field(default=None, init=False)
    _start: State = field(default_factory=dict, init=False)

    def begin(self, policy: Policy) -> None:
        """Take the policy as it is when a run begins, before it has learnt anything."""
        self._policy, self._start = policy, policy.adapter_state()

    def open(self, model: str, max_tokens: int) -> Generate:
        """A judge that answers conversations, greedily.

        Args:
            model: BASE, a local folder or a Hugging Face id.
            max_tokens: its longest answer.

        Raises:
            UsageError: the model cannot be used.
        """
        if model == BASE:
            return lambda conversations: self._as_begun(conversations, max_tokens)
        folder = judge_folder(model)
        tokenizer = load_tokenizer(folder, self.moment)
        judge = self.backend.load_for_generation(folder, None)
        return lambda conversations: _answers(judge, tokenizer, conversations, max_tokens)

    def _as_begun(self, conversations: Sequence[list[dict[str, str]]], max_tokens: int) -> list[str]:
        policy = self._policy
        if policy is None:
            raise RuntimeError("begin() comes first")
        with wearing(policy, self._start):
            return _answers(policy, self.tokenizer, conversations, max_tokens)


def judge_folder(model: str) -> Path:
    """Where a judge lies that is not BASE.

    Raises:
        UsageError: there is no such model, or it cannot be used.
    """
    return resolve_model(model, None).folder


def _answers(
    policy: Policy,
    tokenizer: ChatTokenizer,
    conversations: Sequence[list[dict[str, str]]],
    max_tokens: int,
) -> list[str]:
    turns = [
        [Message(role=turn["role"], content=harmless(turn["content"], tokenizer)) for turn in one]
        for one in conversations
    ]
    groups = policy.generate(
        [render_prompt(tokenizer, one)[1] for one in turns],
        sampling=Sampling(max_tokens=max_tokens),
        stop_ids=sorted(tokenizer.stop_ids),
    )
    return [tokenizer.decode(answer.text_ids).strip() for (answer,) in groups]


def harmless(text: str, tokenizer: ChatTokenizer) -> str:
    """The text with a space in its special tokens: a completion cannot end its turn and open another."""
    for special in tokenizer.special_texts:
        text = text.replace(special, f"{special[:1]} {special[1:]}" if len(special) > 1 else " ")
    return text

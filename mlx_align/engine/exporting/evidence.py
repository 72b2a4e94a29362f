"""Asking the policy that was trained, by the backend that trained it, what an export will be measured by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_align import backends
from mlx_align.backends.base import Policy, Sampling
from mlx_align.config import BackendConfig
from mlx_align.data import ChatTokenizer, Message, render_prompt
from mlx_align.engine.exporting.origin import Origin
from mlx_align.engine.tokenizer import load_tokenizer
from mlx_align.export.base import Base
from mlx_align.export.evidence import LENGTHS, PROMPTS, Evidence, contexts, likeliest

PRECISIONS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def gather_evidence(origin: Origin) -> Evidence:
    """What the policy and the bare base say after the fixed prompts.

    The two are loaded one after the other, each as it is used, so that one's mistake is not the other's.

    Raises:
        UsageError: the backend cannot load them.
        DataError: the chat template refuses a plain question.
    """
    config = exactly(origin.config.backend, origin.base)
    backend = backends.create(config)
    tokenizer = load_tokenizer(origin.folder)
    rendered = [render_prompt(tokenizer, [Message(role="user", content=prompt)]) for prompt in PROMPTS]
    policy = backend.load_for_generation(origin.folder, origin.adapter_folder)
    seen = contexts([ids for _, ids in rendered], _answers(policy, tokenizer, [ids for _, ids in rendered]))
    logps = policy.next_logps(seen)
    tokens = likeliest(logps)
    del policy  # its memory is needed
    base = backend.load_for_generation(origin.folder, None).next_logps(seen)
    return Evidence(
        contexts=seen,
        tokens=tokens,
        policy=picked(logps, tokens),
        base=picked(base, tokens),
        texts=tuple((text, tuple(ids)) for text, ids in rendered),
        precision=computed_in(config, backend.device, origin.base),
        device=backend.device,
    )


def _answers(policy: Policy, tokenizer: ChatTokenizer, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The first tokens of the policy's greedy answers."""
    sampling = Sampling(max_tokens=max(LENGTHS))
    made = policy.generate(prompts, sampling=sampling, stop_ids=sorted(tokenizer.stop_ids))
    return [list(answer.text_ids) for (answer,) in made]


def picked(logps: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N, K) of (N, V): those of the tokens; -inf for a token beyond V."""
    known = np.minimum(tokens, logps.shape[1] - 1)
    found = np.take_along_axis(logps, known, axis=1)
    return np.where(tokens < logps.shape[1], found, np.float32(-np.inf))


def exactly(config: BackendConfig, base: Base) -> BackendConfig:
    """The same backend computing in float32, if the base in float32 takes no more than half of its memory.

    What a GPU usually computes in, 8 bits, is too coarse to see a mistake in a weak adapter. A base that the
    backend itself quantises stays as it is: it is what was trained on.
    """
    fits = 4 * base.parameters <= backends.create(config).memory().limit / 2
    return config.model_copy(update={"dtype": "float32"}) if fits and config.quantize == "none" else config


def computed_in(config: BackendConfig, device: str, base: Base) -> str:
    """The precision that a backend computes a model in; "4-bit" where it quantises what it loads."""
    if config.quantize == "nf4":
        return "4-bit"
    stored = base.config.get("dtype") or base.config.get("torch_dtype")
    on_cpu = device.endswith("cpu")
    dtype = config.dtype if config.dtype != "auto" else "float32" if on_cpu else str(stored)
    if dtype == "float32" and not on_cpu:
        return "f16"  # a GPU may multiply float32 with the 11 bits of a float16
    return PRECISIONS.get(dtype, "bf16")


class PolicyReader:
    """A policy as `export.evidence.Reader`: mlx-lm's loader, and the bare mathematics after it.

    Args:
        name: the program behind it.
        policy: what it loaded.
        folder: where its tokenizer is.
    """

    def __init__(self, name: str, policy: Policy, folder: Path) -> None:
        self.name = name
        self._policy, self._tokenizer = policy, load_tokenizer(folder)

    def next_logps(self, prompts: Sequence[Sequence[int]], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, K) log-probabilities of the tokens."""
        return picked(self._policy.next_logps(prompts), tokens)

    def encode(self, text: str) -> list[int]:
        """The ids that the folder's tokenizer makes of a text."""
        return self._tokenizer.encode(text)

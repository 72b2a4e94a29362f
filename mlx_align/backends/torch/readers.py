"""A PEFT adapter or a model in the Hugging Face layout, read as it lies there by transformers and peft."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel
from transformers import AutoTokenizer

from mlx_align.backends.torch.backend import TorchBackend
from mlx_align.backends.torch.policy import TorchPolicy
from mlx_align.config import BackendConfig
from mlx_align.errors import AlignError

CPU = BackendConfig(name="torch", device="cpu")
"""Where an export is read."""


class TorchReader:
    """`export.evidence.Reader` for transformers and peft.

    Args:
        name: the program, for a person.
        policy: the model, which it reads.
        folder: where its tokenizer lies.
    """

    def __init__(self, name: str, policy: TorchPolicy, folder: Path) -> None:
        self.name = name
        self._policy, self._folder = policy, folder

    def next_logps(self, prompts: Sequence[Sequence[int]], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, K) log-probabilities of given tokens to come next after each of N prompts."""
        return np.take_along_axis(self._policy.next_logps(prompts), tokens, axis=-1)

    def encode(self, text: str) -> list[int] | None:
        """The ids that the folder's tokenizer makes of a text; None if there is none."""
        if not (self._folder / "tokenizer_config.json").is_file():
            return None
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    @cached_property
    def _tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)


def peft_reader(base: Path, adapter: Path | None, dtype: str) -> TorchReader:
    """Load a model folder, with an adapter in PEFT's format or without one.

    Args:
        base: the model, in the Hugging Face layout.
        adapter: a folder with adapter_config.json and adapter_model.safetensors.
        dtype: what it is computed in: "float32" adds least of its own, "bfloat16" takes half of the memory.

    Raises:
        UsageError: transformers cannot load the model.
        AlignError: peft cannot put this adapter on it.
    """
    backend = TorchBackend(CPU.model_copy(update={"dtype": dtype}))
    model = backend.load_model(base)
    name = f"transformers {importlib.metadata.version('transformers')}"
    if adapter is not None:
        model = _adapted(model, adapter)
        name = f"{name} with peft {importlib.metadata.version('peft')}"
    return TorchReader(name, TorchPolicy(model, None, None, backend.memory), base)


def _adapted(model: Any, adapter: Path) -> Any:
    """The model with the adapter on it; what peft only warns of but leaves out is an error here."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise AlignError(f"peft cannot load the adapter: {error}", where=str(adapter)) from None
    lost = [str(warning.message) for warning in caught if "missing adapter keys" in str(warning.message)]
    if lost:
        raise AlignError(f"peft does not find all of the adapter: {lost[0]}", where=str(adapter))
    return adapted

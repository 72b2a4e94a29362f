"""Torch on one device: what it is, what it can give, and how a model gets onto it."""

from __future__ import annotations

import importlib.metadata
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig
from transformers.utils import logging

from mlx_align import installing
from mlx_align.backends.base import MemoryUse
from mlx_align.backends.torch import adapters, longrope
from mlx_align.backends.torch.memory import memory_use
from mlx_align.backends.torch.policy import TorchPolicy
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.errors import UsageError
from mlx_align.paths import typed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REFUSALS = (
    ValueError, OSError, KeyError, TypeError, RuntimeError, ImportError, ArithmeticError, StrictDataclassError
)  # fmt: skip
"""What transformers raises of a model that it cannot load; the last is of a config.json with wrong types."""


def create(config: BackendConfig) -> TorchBackend:
    """Torch on the configured device."""
    return TorchBackend(config)


class TorchBackend:
    """`backends.base.Backend` for transformers and peft.

    Raises:
        UsageError: the configured device is not there, or cannot do what is asked of it.
    """

    def __init__(self, config: BackendConfig) -> None:
        self._kind = choose_device(config.device)
        self._dtype = "float32" if config.dtype == "auto" and self._kind == "cpu" else config.dtype
        self._quantize = config.quantize
        self._checkpointing = config.checkpointing
        if config.quantize != "none":
            check_quantization(self._kind)
        logging.disable_progress_bar()  # the engine reports its own progress

    @property
    def device(self) -> str:
        """torch:cpu, torch:cuda or torch:mps."""
        return f"torch:{self._kind}"

    def versions(self) -> dict[str, str]:
        """Versions of torch and peft, and of bitsandbytes where it is used."""
        names = ["torch", "peft", *(["bitsandbytes"] if self._quantize != "none" else [])]
        return {name: importlib.metadata.version(name) for name in names}

    def advice(self) -> str | None:
        """Nothing: torch's CPU wheels bring a fast matrix product with them."""
        return None

    def memory(self) -> MemoryUse:
        """Bytes in use, at the highest, and what the device has."""
        return memory_use(self._kind)

    def habits(self) -> None:
        """Nobody has measured how torch uses memory here."""

    def load_policy(
        self,
        model: Path,
        adapter: AdapterConfig,
        optim: OptimConfig | None,
        seed: int,
        longest: int | None = None,
    ) -> TorchPolicy:
        """Load a model folder and put an adapter on it."""
        base = self.load_model(model)
        positions = longrope.settle(base, longest)
        if self._checkpointing == "layers":
            _checkpoint_layers(base)
        if adapter.start is not None:
            attached = adapters.attach_saved(base, typed(adapter.start))
        else:
            attached = adapters.attach_new(base, adapter, seed)
        return TorchPolicy(base, attached, optim, self.memory, positions)

    def load_for_generation(self, model: Path, adapter: Path | None) -> TorchPolicy:
        """Load a model folder, with a saved adapter or without one."""
        base = self.load_model(model)
        attached = adapters.attach_saved(base, adapter) if adapter else None
        return TorchPolicy(base, attached, None, self.memory, longrope.settle(base, None))

    def load_model(self, folder: Path) -> Any:
        """Load a model folder into transformers' own class, frozen.

        Raises:
            UsageError: transformers cannot load it, or weights are missing or not finite.
        """
        _refuse_mlx_quantised(folder)
        try:
            model, info = AutoModelForCausalLM.from_pretrained(folder, **self._options(folder))
        except REFUSALS as error:
            raise UsageError(
                f"transformers cannot load this model: {error}",
                where=str(folder),
                hint="It must be a text model of an architecture that transformers knows, in safetensors.",
            ) from None
        # transformers fills what it does not find with random numbers and only mentions it.
        if absent := sorted([*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])]):
            raise UsageError(f"{len(absent)} weights are missing, first '{absent[0]}'", where=str(folder))
        if self._quantize == "none":
            model = model.to(self._kind)
        model.requires_grad_(False)
        model.generation_config = GenerationConfig()  # only what we ask for, nothing from the folder
        _check_finite(model, folder)
        return model

    def _options(self, folder: Path) -> dict[str, Any]:
        safe = {"local_files_only": True, "trust_remote_code": False}
        facts = AutoConfig.from_pretrained(folder, **safe)
        options: dict[str, Any] = {
            **safe,
            "use_safetensors": True,
            "output_loading_info": True,
            "dtype": DTYPES.get(self._dtype, "auto"),
            # sdpa has no place for the tanh that gemma2 puts around its attention scores.
            "attn_implementation": "eager" if getattr(facts, "attn_logit_softcapping", None) else "sdpa",
        }
        if self._quantize == "nf4":
            # QLoRA's storage type and double quantisation: Dettmers et al. 2023, arXiv:2305.14314, section 3.
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=DTYPES.get(self._dtype, torch.bfloat16),
            )
            options["device_map"] = {"": 0}
        return options


def _checkpoint_layers(model: Any) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None)  # its newer name
    try:
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    except ValueError as error:
        raise UsageError(
            str(error), where="backend.checkpointing", hint="Use backend.checkpointing=none."
        ) from None


def choose_device(wanted: str) -> str:
    """cpu, cuda or mps for the configured device.

    Raises:
        UsageError: there is no such device here.
    """
    there = [
        kind
        for kind, found in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
        if found
    ]
    if wanted in ("auto", "gpu") and there:
        return there[0]
    if wanted in ("auto", "cpu"):
        return "cpu"
    if wanted not in there:
        name = "GPU" if wanted == "gpu" else wanted
        raise UsageError(f"torch sees no {name} here", where="backend.device", hint="Use backend.device=cpu.")
    return wanted


def check_quantization(kind: str) -> None:
    """See that a 4-bit base can be had.

    Raises:
        UsageError: the device is not CUDA, or bitsandbytes is not installed.
    """
    if kind != "cuda":
        raise UsageError(
            f"a 4-bit base needs an NVIDIA GPU, not torch:{kind}",
            where="backend.quantize",
            hint="Use backend.quantize=none.",
        )
    if find_spec("bitsandbytes") is None:
        raise UsageError(
            "bitsandbytes is not installed",
            where="backend.quantize",
            hint=f"Install it with `{installing.command('torch', 'bnb')}`, or use backend.quantize=none.",
        )


def _refuse_mlx_quantised(folder: Path) -> None:
    try:
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"config.json cannot be read: {error}", where=str(folder)) from None
    quantisation = facts.get("quantization")
    if isinstance(quantisation, dict) and "bits" in quantisation:
        raise UsageError(
            f"this base was quantised to {quantisation['bits']} bits by MLX, which torch cannot read",
            where=str(folder),
            hint="Use backend.name=mlx, or the model in its original precision.",
        )


def _check_finite(model: Any, folder: Path) -> None:
    for name, value in model.named_parameters():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UsageError(f"the weight '{name}' is not finite", where=str(folder))

"""What GGUF calls an architecture and a tensor, by the tables of gguf-py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlx_align.errors import UsageError

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
}
"""config.json's model_type -> general.architecture; those whose tensors were seen to agree in llama.cpp."""


def architecture(model_type: str) -> str:
    """GGUF's name of an architecture.

    Args:
        model_type: as config.json has it.

    Raises:
        UsageError: the architecture is none whose layout in GGUF is known here.
    """
    if model_type not in ARCHITECTURES:
        raise UsageError(
            f"'{model_type}' is not written as GGUF here: how llama.cpp has it was not verified",
            hint=f"Known are {', '.join(sorted(ARCHITECTURES))}. "
            "`--to hf` merges into a model that llama.cpp's own converter may know.",
        )
    return ARCHITECTURES[model_type]


@dataclass(frozen=True)
class Names:
    """The names of one model's tensors.

    Args:
        architecture: GGUF's name, from `architecture()`.
        layers: the model's number of layers.
    """

    architecture: str
    layers: int
    _table: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        import gguf

        known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        table = gguf.get_tensor_name_map(known[self.architecture], self.layers)
        object.__setattr__(self, "_table", table)

    def find(self, name: str) -> str | None:
        """GGUF's name of a tensor or module, None where the architecture has no such tensor.

        Args:
            name: mlx-lm's or Hugging Face's, such as "model.layers.0.mlp.switch_mlp.up_proj" or
                "model.layers.0.self_attn.q_proj.bias"; a suffix ".weight" or ".bias" is kept.
        """
        plain = name.replace("language_model.", "", 1).replace(".switch_mlp.", ".experts.")
        found: str | None = self._table.get_name(plain, try_suffixes=(".weight", ".bias"))
        return found

    def of(self, name: str) -> str:
        """GGUF's name of a tensor or module.

        Raises:
            UsageError: the architecture has no such tensor in GGUF.
        """
        found = self.find(name)
        if found is None:
            raise UsageError(
                f"GGUF has no place for '{name}' in the architecture '{self.architecture}'",
                hint="Merge the adapter into a Hugging Face model instead: `--to hf`.",
            )
        return found

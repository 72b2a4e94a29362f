"""The model that an adapter belongs to, as it lies in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.config_defaults import defaults
from mlx_align.errors import UsageError
from mlx_align.export import places
from mlx_align.export.places import Place
from mlx_align.export.quantised import Quantised, dequantise, unpacked_width
from mlx_align.export.tensors import FLOATS, Tensors

QUANTISATION_PARTS = ("scales", "biases", "global_scale")
"""What MLX stores beside a packed weight."""

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""config.json's names of dtypes -> safetensors'."""


@dataclass(frozen=True)
class Base:
    """A model's folder: its configuration and its weights, which are read when asked for.

    Args:
        folder: where it lies.
        config: config.json.
        tensors: by the names in its files.
    """

    folder: Path
    config: dict[str, Any]
    tensors: Tensors

    @classmethod
    def open(cls, folder: Path) -> Base:
        """Read the configuration and the files' headers.

        Raises:
            UsageError: the folder is not a model.
            DataError: its files are damaged.
        """
        path = folder / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            str(config["model_type"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"not the configuration of a model: {error!r}", where=str(path)) from None
        return cls(folder, config, Tensors.open(folder, "model*.safetensors"))

    @property
    def architecture(self) -> str:
        """config.json's model_type: "llama", "qwen3" and so on."""
        return str(self.config["model_type"])

    @property
    def tied(self) -> bool:
        """Whether the embedding is also the output head."""
        return bool(self.fact("tie_word_embeddings", not self.has("lm_head")))

    @property
    def hidden(self) -> int:
        """The width of the residual stream."""
        return int(self.fact("hidden_size"))

    @property
    def heads(self) -> int:
        """Query heads a layer."""
        return int(self.fact("num_attention_heads"))

    @property
    def kv_heads(self) -> int:
        """Key and value heads a layer."""
        return int(self.fact("num_key_value_heads", self.heads))

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return int(self.fact("head_dim", self.hidden // self.heads))

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return int(self.fact("num_hidden_layers"))

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return int(self.fact("vocab_size"))

    @property
    def parameters(self) -> int:
        """How many numbers the model has: times the bytes of one, what a whole copy needs."""
        return sum(int(np.prod(self.tensor_shape(name))) for name in self.tensors if not self.is_part(name))

    @property
    def quantised(self) -> bool:
        """Whether MLX quantised it."""
        return isinstance(self.config.get("quantization"), dict)

    @property
    def converted(self) -> bool:
        """Whether mlx-lm wrote the files, with its own names and layouts, and not the hub's."""
        return self.quantised or any(
            self.tensors.metadata(file).get("format") == "mlx" for file in self.tensors.files
        )

    def fact(self, key: str, default: Any = None) -> Any:
        """A value of config.json, in a multimodal model that of its language model.

        Args:
            key: its name.
            default: what holds where neither the file nor the architecture says anything.

        Raises:
            UsageError: it is not there, and there is no default.
        """
        for table in (self.config, self.config.get("text_config") or {}):
            if table.get(key) is not None:
                return table[key]
        value = defaults(self.config).get(key, default)
        if value is None:
            raise UsageError(f"config.json has no {key}", where=str(self.folder))
        return value

    def has(self, module: str) -> bool:
        """Whether the model has a module, by mlx-lm's path."""
        return bool(self.places(module))

    def places(self, module: str) -> list[Place]:
        """Where the module's matrix lies; nowhere if the model has no such module."""
        return places.find(module, self.tensors)

    def quantisation(self, module: str) -> Quantised | None:
        """How a module is quantised, by mlx-lm's path; None if it is not.

        Raises:
            UsageError: in a way that cannot be read here.
        """
        if f"{module}.scales" not in self.tensors:
            return None
        table = self.config.get("quantization") or {}
        facts = table.get(module) if isinstance(table.get(module), dict) else None
        if facts is None:  # mlx-lm goes by the shapes then
            words, groups = (self.tensors[f"{module}.{part}"].shape[-1] for part in ("weight", "scales"))
            size = int(table.get("group_size", 64))
            facts = {**table, "group_size": size, "bits": words * 32 // (groups * size)}
        if f"{module}.global_scale" in self.tensors:
            raise UsageError(f"'{module}' is quantised with a scale for all of it, which is not read here")
        return Quantised(int(facts["bits"]), int(facts["group_size"]), str(facts.get("mode", "affine")))

    def is_part(self, tensor: str) -> bool:
        """Whether a tensor only belongs to a quantised weight: scales, biases."""
        module, _, part = tensor.rpartition(".")
        return part in QUANTISATION_PARTS and f"{module}.scales" in self.tensors

    def matrix(self, tensor: str) -> NDArray[np.float32]:
        """The numbers of a tensor by its name in the files, dequantised, in an array of their own."""
        module = tensor.removesuffix(".weight")
        how = self.quantisation(module)
        if how is None or module == tensor:
            return self.tensors[tensor].float32()
        affine = how.mode == "affine"
        scales = self.tensors[f"{module}.scales"]
        biases = self.tensors[f"{module}.biases"].float32() if affine else None
        packed = self.tensors[tensor].integers()
        return dequantise(packed, scales.float32() if affine else scales.integers(), biases, how)

    def tensor_shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor by its name in the files, as if it were not quantised."""
        shape, module = self.tensors[tensor].shape, tensor.removesuffix(".weight")
        how = self.quantisation(module)
        return shape if how is None or module == tensor else (*shape[:-1], unpacked_width(how, shape[-1]))

    def dtype(self, tensor: str) -> str:
        """The dtype of a tensor, or of the numbers that it stands for if it is quantised."""
        module = tensor.removesuffix(".weight")
        if self.quantisation(module) is None or module == tensor:
            return self.tensors[tensor].dtype
        stored = self.tensors[f"{module}.scales"].dtype
        named = self.fact("dtype", self.fact("torch_dtype", "bfloat16"))
        return stored if stored in FLOATS else DTYPES.get(str(named), "BF16")

    def weight(self, module: str) -> NDArray[np.float32]:
        """A module's matrix by mlx-lm's path: (out, in), or (E, out, in) for stacked experts; dequantised.

        Raises:
            UsageError: the model has no such module.
        """
        found = self._found(module)
        if found[0].expert is not None:
            return np.stack([self.matrix(place.tensor) for place in found])
        matrix, rows = self.matrix(found[0].tensor), found[0].rows
        return matrix if rows is None else matrix[..., rows, :]

    def shape(self, module: str) -> tuple[int, ...]:
        """The shape of `weight(module)`.

        Raises:
            UsageError: the model has no such module.
        """
        found = self._found(module)
        shape, rows = self.tensor_shape(found[0].tensor), found[0].rows
        if found[0].expert is not None:
            return (len(found), *shape)
        if rows is None:
            return shape
        return (*shape[:-2], len(range(*rows.indices(shape[-2]))), shape[-1])

    def _found(self, module: str) -> list[Place]:
        found = self.places(module)
        if not found:
            raise UsageError(
                f"the model has no module '{module}'",
                where=str(self.folder),
                hint="Give the base that the adapter was trained on.",
            )
        return found

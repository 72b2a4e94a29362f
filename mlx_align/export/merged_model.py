"""A base with an adapter added, tensor by tensor, as pieces of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import UsageError
from mlx_align.export import places
from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import QUANTISATION_PARTS, Base
from mlx_align.export.merging import merge
from mlx_align.export.places import Place
from mlx_align.export.preflight import check_fits
from mlx_align.export.quantised import Quantised, quantise
from mlx_align.export.shards import Piece
from mlx_align.export.tensors import FLOATS, Entry, encode

PLAIN = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3",
    "qwen2_moe", "qwen3_moe", "olmoe", "mixtral", "phimoe",
)  # fmt: skip
"""Architectures whose weights mlx-lm stores as the hub does, but for stacked experts."""


class MergedModel:
    """The sum of a base and an adapter.

    Raises:
        UsageError: the adapter does not fit the base.
    """

    def __init__(self, base: Base, adapter: Adapter) -> None:
        check_fits(adapter, base)
        self.base, self._scale = base, adapter.scale
        self._changes: dict[str, list[tuple[Place, Module]]] = {}
        for name, module in adapter.modules.items():
            for place in base.places(name):
                part = module if place.expert is None else module.expert(place.expert)
                self._changes.setdefault(place.tensor, []).append((place, part))
            if base.tied and places.is_tied_head(name, base.tensors):
                self._changes.setdefault("lm_head.weight", []).append((Place("lm_head.weight"), module))

    def changed(self, tensor: str) -> bool:
        """Whether the adapter changes a tensor, by its name in the files."""
        return tensor in self._changes

    def matrix(self, tensor: str) -> NDArray[np.float32]:
        """The numbers of a tensor, dequantised and with the adapter added."""
        matrix = self.base.matrix(tensor)
        for place, module in self._changes.get(tensor, []):
            part = matrix if place.rows is None else matrix[..., place.rows, :]
            merge(part, module, self._scale)
        return matrix

    def check_layout(self, wanted: str) -> None:
        """See that the layouts of mlx-lm and of the hub are known to be one for this architecture.

        Raises:
            UsageError: they are not, so what is `wanted` cannot be made from this base.
        """
        if self.base.architecture not in PLAIN:
            raise UsageError(
                f"{wanted} cannot be made of this base: how mlx-lm rearranges '{self.base.architecture}' "
                "is not known here",
                where=str(self.base.folder),
                hint="Write it for mlx-lm, 'kept' or 'none', or give the hub's own model as the base.",
            )

    def as_it_is(self, tensor: str) -> Piece:
        """A tensor's own bytes, with those of its scales and biases if it is quantised."""
        module = tensor.removesuffix(".weight")
        parts = [f"{module}.{part}" for part in QUANTISATION_PARTS] if module != tensor else []
        tensors = [self.base.tensors[name] for name in (tensor, *parts) if name in self.base.tensors]
        entries = tuple((tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)
        return Piece(entries, lambda: (tensor.raw() for tensor in tensors))

    def in_full(self, tensor: str, dtype: str | None) -> Piece:
        """A tensor's numbers in this dtype, None for its own; its own bytes where nothing changes."""
        kept, stored = self.base.dtype(tensor), self.base.tensors[tensor].dtype
        target = self.target(tensor, dtype)
        if target == stored and not self.changed(tensor):
            return self.as_it_is(tensor)
        if kept not in FLOATS:
            raise UsageError(
                f"'{tensor}' is {kept}, to which nothing can be added", where=str(self.base.folder)
            )
        shape = self.base.tensor_shape(tensor)
        return Piece(((tensor, target, shape),), lambda: [encode(self.matrix(tensor), target)])

    def one_by_one(self, tensor: str, dtype: str | None) -> Piece:
        """mlx-lm's stacked experts as the hub has them; any other tensor as in `in_full`."""
        stacked = places.STACKED.fullmatch(tensor.removesuffix(".weight"))
        if stacked is None:
            return self.in_full(tensor, dtype)
        target, (count, *shape) = self.target(tensor, dtype), self.base.tensor_shape(tensor)
        names = [places.expert_name(stacked["layer"], stacked["part"], expert) for expert in range(count)]
        entries = tuple((name, target, tuple(shape)) for name in names)
        return Piece(entries, lambda: (encode(matrix, target) for matrix in self.matrix(tensor)))

    def stacked(self, module: str, dtype: str | None, how: Quantised | None) -> Piece:
        """The matrix of one of mlx-lm's modules under its own name, quantised if `how` says so.

        Where the base has experts one by one they are read, and quantised, one by one.
        """
        tensors = [place.tensor for place in self.base.places(module)]
        target, shape = self.target(tensors[0], dtype), self.base.shape(module)
        if how is None:
            entry = (f"{module}.weight", target, shape)
            return Piece((entry,), lambda: [b"".join(encode(self.matrix(name), target) for name in tensors)])
        return Piece(
            _quantised_entries(module, shape, target, how), lambda: self._quantised(tensors, target, how)
        )

    def target(self, tensor: str, dtype: str | None) -> str:
        """The dtype that a tensor's numbers get: integers and exotic floats keep theirs."""
        kept = self.base.dtype(tensor)
        return dtype if dtype is not None and kept in FLOATS else kept

    def _quantised(self, tensors: Sequence[str], target: str, how: Quantised) -> Iterator[bytes]:
        words, scales, biases = [], [], []
        for name in tensors:
            packed, scale, bias = quantise(self.matrix(name), how)
            words.append(packed.astype("<u4", copy=False).tobytes())
            scales.append(encode(scale, target))
            biases.append(encode(bias, target))
        yield from (b"".join(parts) for parts in (words, scales, biases))


def _quantised_entries(module: str, shape: tuple[int, ...], dtype: str, how: Quantised) -> tuple[Entry, ...]:
    *lead, width = shape
    groups = (*lead, width // how.group_size)
    return (
        (f"{module}.weight", "U32", (*lead, width * how.bits // 32)),
        (f"{module}.scales", dtype, groups),
        (f"{module}.biases", dtype, groups),
    )

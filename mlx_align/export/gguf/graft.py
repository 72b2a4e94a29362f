"""An adapter merged into a GGUF that is there already: all of it is kept but the matrices that it changes.

So nothing has to be known of the tokenizer, the chat template or the architecture's keys: they are copied.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import UsageError
from mlx_align.export import provenance as provenances
from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import Base
from mlx_align.export.gguf.existing import Existing, Stored, pad, stored, text_key, write_header
from mlx_align.export.gguf.names import Names, architecture
from mlx_align.export.gguf.permute import permuted, rotated_heads
from mlx_align.export.merging import merged
from mlx_align.export.provenance import Provenance

TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""What gguf-py writes; a merged matrix of any other type becomes q8_0."""

LIKENESS = 0.5
"""The least cosine between a matrix of the file and the base's: coarse quantisation leaves 0.8, chance 0."""

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
LARGEST_F16 = 65504.0


def write(
    file: Path,
    adapter: Adapter,
    base: Base,
    base_gguf: Path,
    provenance: Provenance,
    type: str | None = None,  # noqa: A002  (GGUF's word)
) -> list[str]:
    """Write a merged GGUF: all keys and tensors of another one, and the adapter in the matrices it changes.

    DoRA's rows get their magnitudes after the sum with the file's own, dequantised numbers.

    Args:
        file: the new file.
        adapter: its modules are in the base, in the same shapes.
        base: the model that it was trained on.
        base_gguf: the same model as a GGUF, in one file.
        provenance: goes into the key "mlx_align.provenance".
        type: of the merged matrices, one of `TYPES`; None keeps each one's own where it can be written here.

    Returns:
        Notes: what a person should know of this file, a sentence each.

    Raises:
        UsageError: the file is of another model or one part of several, or the type cannot be written here.
        DataError: it is damaged.
    """
    if type is not None and type not in TYPES:
        raise UsageError(
            f"merged matrices cannot be written as '{type}' here",
            hint=f"Choose {', '.join(TYPES)}; a whole file in another type is made by llama.cpp.",
        )
    existing = Existing(base_gguf)
    names = Names(architecture(base.architecture), base.layers)
    modules = _modules(adapter, base, existing, names)
    for path in list(adapter.modules)[:1]:
        _check_same_model(path, base, existing, names)
    targets = [_target(tensor, type) if tensor.name in modules else tensor for tensor in existing.tensors]
    count, keys = existing.keys(without=provenances.GGUF_KEY)
    keys += text_key(provenances.GGUF_KEY, provenance.json())
    with file.open("wb") as output:
        write_header(output, existing.version, (count + 1, keys), targets, existing.alignment)
        for source, target in zip(existing.tensors, targets, strict=True):
            if (module := modules.get(source.name)) is None:
                output.writelines(existing.chunks(source))
            else:
                output.write(_encoded(merged(existing.float32(source), module, adapter.scale), target))
            pad(output, existing.alignment)
    notes = _notes(existing, targets, modules, type)
    if base.quantised:
        notes.append(
            f"the adapter was trained beside weights that MLX quantised, not those of {base_gguf.name}"
        )
    return notes


def _modules(adapter: Adapter, base: Base, existing: Existing, names: Names) -> dict[str, Module]:
    """What the adapter does to each tensor of the file, in the order of GGUF's rows.

    Raises:
        UsageError: the file is another architecture, or lacks a tensor, or has it in another shape.
    """
    hint = f"Give a GGUF of the model that the adapter was trained on ({base.folder.name})."
    found = existing.value("general.architecture")
    if found != names.architecture or existing.value("general.type") not in (None, "model"):
        kind = existing.value("general.type") or "model"
        raise UsageError(
            f"the file is a {kind} of the architecture '{found}', and the base is a '{names.architecture}'",
            where=str(existing.file), hint=hint,
        )  # fmt: skip
    shapes = {tensor.name: tensor.shape for tensor in existing.tensors}
    modules: dict[str, Module] = {}
    for path, module in adapter.modules.items():
        name = f"{names.of(path)}.weight"
        if shapes.get(name) != module.shape:
            has = f"is {shapes[name]}" if name in shapes else "is missing"
            raise UsageError(
                f"'{path}' is {module.shape} in the adapter, and '{name}' {has} in the file",
                where=str(existing.file), hint=hint,
            )  # fmt: skip
        modules[name] = _reordered(module, rotated_heads(path, names.architecture, base.heads, base.kv_heads))
    if base.tied and EMBEDDING in modules and shapes.get(HEAD) == shapes[EMBEDDING]:
        modules[HEAD] = modules[EMBEDDING]  # some files hold a tied matrix twice
    return modules


def _reordered(module: Module, heads: int | None) -> Module:
    """A module whose output has GGUF's order of rows."""
    magnitude = None if module.magnitude is None else permuted(module.magnitude, heads)
    return replace(module, b=permuted(module.b, heads), magnitude=magnitude)


def _check_same_model(path: str, base: Base, existing: Existing, names: Names) -> None:
    """See on one module's matrix that the file holds the base's numbers, as far as its precision tells.

    Raises:
        UsageError: it is a model of the same shape with other weights.
    """
    tensor = next(tensor for tensor in existing.tensors if tensor.name == f"{names.of(path)}.weight")
    heads = rotated_heads(path, names.architecture, base.heads, base.kv_heads)
    ours, theirs = permuted(base.weight(path), heads).ravel(), existing.float32(tensor).ravel()
    cosine = float(ours @ theirs) / (float(np.linalg.norm(ours) * np.linalg.norm(theirs)) or 1.0)
    if not cosine >= LIKENESS:
        raise UsageError(
            f"'{tensor.name}' has other numbers than the base's '{path}' (cosine {cosine:.2f})",
            where=str(existing.file),
            hint=f"Give a GGUF of the model that the adapter was trained on ({base.folder.name}).",
        )


def _target(tensor: Stored, asked: str | None) -> Stored:
    """The tensor as it will be written once it is merged."""
    import gguf

    own = tensor.kind.name.lower()
    chosen = asked or (own if own in TYPES else "q8_0")
    kind = gguf.GGMLQuantizationType[chosen.upper()]
    if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = gguf.GGMLQuantizationType.F16
    return stored(tensor.name, tensor.shape, kind)


def _encoded(values: NDArray[np.float32], target: Stored) -> memoryview:
    """A merged tensor's bytes.

    Raises:
        UsageError: a number is too large for the type.
    """
    import gguf

    if target.kind.name not in ("F32", "BF16") and not np.abs(values).max() <= LARGEST_F16:
        raise UsageError(
            f"'{target.name}' has numbers that {target.kind.name} cannot hold", hint="Choose bf16 or f32."
        )
    encoded: NDArray[Any] = gguf.quants.quantize(values, target.kind)
    return np.ascontiguousarray(encoded).data.cast("B")


def _notes(
    existing: Existing, targets: list[Stored], modules: dict[str, Module], asked: str | None
) -> list[str]:
    changed = Counter(
        (source.kind.name, target.kind.name)
        for source, target in zip(existing.tensors, targets, strict=True)
        if source.kind != target.kind
    )
    notes = []
    for (old, new), count in changed.items():
        why = "" if asked == new.lower() else f": {asked or old} cannot be written here for them"
        notes.append(f"{count} merged tensors are {new} and no longer {old}{why}")
    if any(module.magnitude is not None for module in modules.values()):
        notes.append(f"DoRA's magnitudes were put on the sums with the weights of {existing.file.name}")
    return notes

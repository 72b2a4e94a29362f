"""The merged model for mlx-lm and the apps that read what it reads.

Of a quantised base, the modules that the adapter did not touch can stay as they are, bit by bit ("kept"), or
all weights are written in full ("none"), or the sums are quantised again ("again"), which rounds the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from mlx_align.errors import UsageError
from mlx_align.export import places
from mlx_align.export.adapter import Adapter
from mlx_align.export.base import Base
from mlx_align.export.formats.hf import Precision
from mlx_align.export.merged_model import MergedModel
from mlx_align.export.provenance import Provenance
from mlx_align.export.quantised import AFFINE_BITS, Quantised
from mlx_align.export.shards import Piece, write_config, write_weights
from mlx_align.rope_names import older_names

Quantisation = Literal["kept", "none", "again"]

GROUP = 64
"""mlx_lm.convert's group size."""

ROUTERS = ("mlp.gate", "block_sparse_moe.gate")
"""What chooses the experts; they get 8 bits, as mlx_lm.convert gives those of Qwen 3."""

Choice = Callable[[str], Quantised | None]
"""mlx-lm's module path -> how it will be quantised."""


def write(
    folder: Path,
    adapter: Adapter,
    base: Base,
    provenance: Provenance,
    quantisation: Quantisation = "kept",
    bits: int | None = None,
    dtype: Precision | None = None,
) -> tuple[str, ...]:
    """Write the merged model into an existing folder.

    Args:
        folder: where to.
        adapter: what is added.
        base: what it is added to.
        provenance: goes into every file's metadata.
        quantisation: "kept", "none" or "again", as above.
        bits: with "again": quantise all linear layers and embeddings to so many; None for each module's own.
        dtype: of what is not quantised; None for the base's.

    Returns:
        What a person should know about it.

    Raises:
        UsageError: the adapter does not fit the base, or this quantisation cannot be made of it.
    """
    model, target = MergedModel(base, adapter), dtype.upper() if dtype else None
    choice = _choice(model, quantisation, bits)
    stack = bits is not None and not base.converted
    if stack:
        model.check_layout("a quantised model")
    files = {
        file: list(_pieces(model, names, choice, target, stack)) for file, names in base.tensors.files.items()
    }
    table = _table(model, files, choice, bits)
    style = {"format": "mlx"} if stack or base.converted else {}
    write_weights(folder, base, files, {**style, **provenance.metadata()})
    write_config(folder, base, target, table, older_names(base.config))  # mlx-lm knows these only
    return _notes(base, quantisation, table)


def _choice(model: MergedModel, quantisation: Quantisation, bits: int | None) -> Choice:
    base = model.base
    if bits is not None and (quantisation != "again" or bits not in AFFINE_BITS):
        raise UsageError(
            f"{bits} bits cannot be had with the quantisation '{quantisation}'",
            hint=f"Choose 'again' and one of {', '.join(map(str, AFFINE_BITS))}.",
        )
    if quantisation == "none":
        return lambda module: None
    if quantisation == "kept":
        return lambda module: None if model.changed(f"{module}.weight") else base.quantisation(module)
    if bits is not None:
        return lambda module: _everything(base, module, bits)
    if not base.quantised:
        raise UsageError("the base is not quantised, so it cannot be again", hint="Say to how many bits.")
    return lambda module: _own(model, module)


def _own(model: MergedModel, module: str) -> Quantised | None:
    """A module's own quantisation, if its sum can be quantised so."""
    how = model.base.quantisation(module)
    if how is not None and how.mode != "affine" and model.changed(f"{module}.weight"):
        raise UsageError(
            f"'{module}' is quantised to {how.mode}, which is read here but not written",
            hint="Keep what the adapter did not touch ('kept'), or give a number of bits.",
        )
    return how


def _everything(base: Base, module: str, bits: int) -> Quantised | None:
    """What mlx_lm.convert would choose: every matrix whose rows can be cut into groups."""
    shape = base.shape(module)
    group = _group(base)
    if len(shape) < 2 or shape[-1] % group:
        return None
    return Quantised(8 if module.endswith(ROUTERS) else bits, group)


def _group(base: Base) -> int:
    """The group size of a model that is quantised as a whole: the base's own if it has one."""
    table = base.config.get("quantization", {})
    return int(table.get("group_size", GROUP)) if table.get("mode", "affine") == "affine" else GROUP


def _pieces(
    model: MergedModel, names: list[str], choice: Choice, dtype: str | None, stack: bool
) -> Iterator[Piece]:
    """What becomes of the tensors of one file; stacked experts stand where the first of them stood."""
    base = model.base
    for name in names:
        module = name.removesuffix(".weight")
        alone = places.stacked_name(name) if stack else None
        if base.is_part(name) or (alone and alone[1] > 0) or (stack and base.tied and module == "lm_head"):
            continue
        if alone:
            yield model.stacked(alone[0], dtype, choice(alone[0]))
            continue
        how = choice(module) if module != name else None
        if how is None:
            yield model.in_full(name, dtype)
        elif how == base.quantisation(module) and not model.changed(name):
            yield model.as_it_is(name)
        else:
            yield model.stacked(module, dtype, how)


def _table(
    model: MergedModel, files: dict[str, list[Piece]], choice: Choice, bits: int | None
) -> dict[str, Any] | None:
    """config.json's quantisation: a default, and the modules that differ from it; None if there is none."""
    names = [entry[0] for pieces in files.values() for piece in pieces for entry in piece.entries]
    modules = [name.removesuffix(".scales") for name in names if name.endswith(".scales")]
    if not modules:
        return None
    old = model.base.config.get("quantization", {})
    settings = {key: value for key, value in old.items() if _is_plain(value)}
    if bits is not None:
        settings |= {"group_size": _group(model.base), "bits": bits, "mode": "affine"}
    common = Quantised(settings["bits"], settings["group_size"], settings.get("mode", "affine"))
    chosen = {module: choice(module) for module in modules}
    return settings | {module: how.facts for module, how in chosen.items() if how not in (None, common)}


def _is_plain(value: Any) -> bool:
    """Whether a value of the table is a setting and not a module's."""
    return not isinstance(value, dict | bool)


def _notes(base: Base, quantisation: Quantisation, table: dict[str, Any] | None) -> tuple[str, ...]:
    if quantisation == "again":
        return ("What was quantised again lost a part of what the adapter learned: look at the measured KL.",)
    if quantisation == "kept" and base.quantised and table is None:
        return ("The adapter is on every quantised module, so nothing stayed quantised.",)
    if quantisation == "kept" and base.quantised:
        return ("What the adapter is on is in full precision, the rest is quantised as it was.",)
    return ()

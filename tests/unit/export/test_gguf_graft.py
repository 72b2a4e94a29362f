"""A graft changes the matrices of the adapter, and not one byte of anything else."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_align.errors import DataError, UsageError
from mlx_align.export.base import Base
from mlx_align.export.gguf.existing import Existing
from mlx_align.export.gguf.graft import TYPES, write
from mlx_align.export.gguf.names import Names, architecture
from mlx_align.export.gguf.permute import permuted, rotated_heads
from mlx_align.export.merging import merged
from tests.unit.export.gguf_models import (
    HEADS,
    KV_HEADS,
    PROVENANCE,
    Q_PROJ,
    SHAPES,
    adapter,
    arrays,
    base,
    value,
)

QUERY = "blk.1.attn_q.weight"
KINDS = gguf.GGMLQuantizationType


def base_gguf(file: Path, model: Base, kind: str = "F32", raw: NDArray[np.uint8] | None = None) -> Path:
    """The model as a GGUF with odd keys; all matrices of one type, or the query's bytes as given."""
    names = Names(architecture(model.architecture), model.layers)
    writer = gguf.GGUFWriter(file, names.architecture)
    writer.add_custom_alignment(64)
    writer.add_array("tokenizer.ggml.tokens", ["a", "ä\0b", ""])
    writer.add_array("odd.numbers", [-1, 2])
    writer.add_float64("odd.number", 0.1)
    writer.add_string("mlx_align.provenance", "of an earlier export")
    writer.add_tensor("odd.weight", np.arange(3, dtype=np.float32))  # what follows it is padded
    for path in SHAPES:
        name = f"{names.of(path)}.weight"
        if raw is not None and name == QUERY:
            writer.add_tensor(name, raw, raw_dtype=KINDS[kind])
            continue
        rows = permuted(model.weight(path), rotated_heads(path, names.architecture, HEADS, KV_HEADS))
        own = "F32" if raw is not None else kind
        writer.add_tensor(
            name, gguf.quants.quantize(np.ascontiguousarray(rows), KINDS[own]), raw_dtype=KINDS[own]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def wanted(model: Base, file: Path) -> NDArray[np.float32]:
    """The query projection with the adapter, from the numbers of the file."""
    made, heads = adapter(), rotated_heads(Q_PROJ, architecture(model.architecture), HEADS, KV_HEADS)
    tensor = next(one for one in gguf.GGUFReader(file).tensors if one.name == QUERY)
    own = gguf.quants.dequantize(np.array(tensor.data), tensor.tensor_type)
    delta = 3.0 * made.modules[Q_PROJ].b @ made.modules[Q_PROJ].a
    return own + permuted(delta, heads)


def kind_of(file: Path) -> str:
    return next(tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors if tensor.name == QUERY)


@pytest.mark.parametrize("model_type", ["qwen2", "llama"])
def test_only_the_merged_matrix_differs(model_type: str, tmp_path: Path) -> None:
    model = base(tmp_path / "base", model_type)
    old, new = base_gguf(tmp_path / "old.gguf", model), tmp_path / "new.gguf"
    assert write(new, adapter(), model, old, PROVENANCE) == []
    before, after = arrays(old), arrays(new)
    assert list(before) == list(after)
    assert [name for name in before if not np.array_equal(before[name], after[name])] == [QUERY]
    np.testing.assert_allclose(after[QUERY], wanted(model, old), rtol=1e-5, atol=1e-5)


def test_keys_are_copied(tmp_path: Path) -> None:
    model = base(tmp_path / "base")
    old, new = base_gguf(tmp_path / "old.gguf", model), tmp_path / "new.gguf"
    write(new, adapter(), model, old, PROVENANCE)
    own = "mlx_align.provenance"
    (count, bytes_before), (same, bytes_after) = (Existing(file).keys(without=own) for file in (old, new))
    assert (count, bytes_before) == (same, bytes_after)
    assert count == 5
    assert value(new, own) == PROVENANCE.json()
    assert Existing(new).alignment == 64
    assert all(tensor.begin % 64 == 0 for tensor in Existing(new).tensors)


@pytest.mark.parametrize("kind", [name.upper() for name in TYPES])
def test_own_types_are_kept(kind: str, tmp_path: Path) -> None:
    model = base(tmp_path / "base")
    old, new = base_gguf(tmp_path / "old.gguf", model, kind), tmp_path / "new.gguf"
    assert write(new, adapter(), model, old, PROVENANCE) == []
    exact, found = gguf.quants.quantize(wanted(model, old), KINDS[kind]), arrays(new)[QUERY]
    assert kind_of(new) == kind
    assert (
        np.isclose(*(gguf.quants.dequantize(one, KINDS[kind]) for one in (exact, found)), rtol=1e-4).mean()
        > 0.999
    )


def k_quants(kind: str) -> NDArray[np.uint8]:
    """Random blocks with small scales, as bytes of the query projection."""
    block, size = gguf.GGML_QUANT_SIZES[KINDS[kind]]
    rows, columns = SHAPES[Q_PROJ]
    raw = np.random.default_rng(3).integers(0, 256, (rows, columns // block, size), np.uint8)
    scale = np.float16(0.01).tobytes()
    begin = {"Q4_K": 0, "Q6_K": size - 2}[kind]
    raw[..., begin : begin + 2] = np.frombuffer(scale, np.uint8)
    if kind == "Q4_K":
        raw[..., 2:4] = np.frombuffer(scale, np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_k_quants_become_q8_0(kind: str, tmp_path: Path) -> None:
    model, raw = base(tmp_path / "base"), k_quants(kind)
    numbers = gguf.quants.dequantize(raw, KINDS[kind])
    file = tmp_path / "base" / "model.safetensors"
    rewrite(file, f"{Q_PROJ}.weight", numbers)
    model = Base.open(model.folder)
    old, new = base_gguf(tmp_path / "old.gguf", model, kind, raw), tmp_path / "new.gguf"
    notes = write(new, adapter(), model, old, PROVENANCE)
    assert notes == [
        f"1 merged tensors are Q8_0 and no longer {kind}: {kind} cannot be written here for them"
    ]
    exact = wanted(model, old)
    found = gguf.quants.dequantize(arrays(new)[QUERY], KINDS.Q8_0)
    assert np.abs(found - exact).max() < np.abs(exact).max() / 127


def rewrite(file: Path, name: str, numbers: NDArray[np.float32]) -> None:
    from safetensors.numpy import load_file, save_file

    save_file({**load_file(file), name: numbers}, file)


def test_another_type_is_asked_for(tmp_path: Path) -> None:
    model = base(tmp_path / "base")
    old, new = base_gguf(tmp_path / "old.gguf", model, "F16"), tmp_path / "new.gguf"
    assert write(new, adapter(), model, old, PROVENANCE, "q4_0") == [
        "1 merged tensors are Q4_0 and no longer F16"
    ]
    assert kind_of(new) == "Q4_0"


def test_dora(tmp_path: Path) -> None:
    """Rows have the length of their magnitudes, in the order of GGUF."""
    model, magnitude = base(tmp_path / "base", "llama"), np.arange(1, 33, dtype=np.float32)
    old, new = base_gguf(tmp_path / "old.gguf", model), tmp_path / "new.gguf"
    made = adapter(magnitude=magnitude)
    assert "old.gguf" in write(new, made, model, old, PROVENANCE)[0]
    exact = permuted(merged(model.weight(Q_PROJ), made.modules[Q_PROJ], 3.0), HEADS)
    np.testing.assert_allclose(arrays(new)[QUERY], exact, rtol=1e-5, atol=1e-5)


def test_a_tied_embedding_that_is_there_twice(tmp_path: Path) -> None:
    model = base(tmp_path / "base")
    once, twice, new = (tmp_path / f"{name}.gguf" for name in ("once", "twice", "new"))
    base_gguf(once, model)
    writer = gguf.GGUFWriter(twice, "qwen2")
    for name, array in arrays(once).items():
        writer.add_tensor(name, array)
    writer.add_tensor("output.weight", arrays(once)["token_embd.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write(new, adapter(("model.embed_tokens",), embedding=True), model, twice, PROVENANCE)
    found = arrays(new)
    assert np.array_equal(found["output.weight"], found["token_embd.weight"])
    assert not np.array_equal(found["output.weight"], arrays(once)["token_embd.weight"])


def test_other_weights_are_refused(tmp_path: Path) -> None:
    model, other = base(tmp_path / "base"), base(tmp_path / "other", seed=9)
    old = base_gguf(tmp_path / "old.gguf", other)
    with pytest.raises(UsageError, match="has other numbers than the base's"):
        write(tmp_path / "new.gguf", adapter(), model, old, PROVENANCE)
    assert not (tmp_path / "new.gguf").exists()


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    old = base_gguf(tmp_path / "old.gguf", base(tmp_path / "other", "llama"))
    with pytest.raises(UsageError, match="a model of the architecture 'llama', and the base is a 'qwen2'"):
        write(tmp_path / "new.gguf", adapter(), base(tmp_path / "base"), old, PROVENANCE)


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    model = base(tmp_path / "base")
    old = base_gguf(tmp_path / "old.gguf", model)
    gone = old.read_bytes().replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight")
    old.write_bytes(gone)
    with pytest.raises(UsageError, match=r"'blk.1.attn_q.weight' is missing in the file"):
        write(tmp_path / "new.gguf", adapter(), model, old, PROVENANCE)


def test_a_part_of_several_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "part.gguf"
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_uint16("split.count", 2)
    writer.add_tensor("a", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UsageError, match="one part of several") as caught:
        Existing(file)
    assert "--merge" in (caught.value.hint or "")


@pytest.mark.parametrize("size", [0, 3, 40, 400, -100])
def test_a_damaged_file_is_refused(size: int, tmp_path: Path) -> None:
    file = base_gguf(tmp_path / "old.gguf", base(tmp_path / "base"))
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DataError):
        Existing(file)


def test_a_type_that_is_not_written_here(tmp_path: Path) -> None:
    model = base(tmp_path / "base")
    with pytest.raises(UsageError, match="cannot be written as 'q4_k_m'"):
        write(tmp_path / "new.gguf", adapter(), model, tmp_path / "old.gguf", PROVENANCE, "q4_k_m")


def test_too_large_for_half_precision(tmp_path: Path) -> None:
    model = base(tmp_path / "base")
    old = base_gguf(tmp_path / "old.gguf", model, "F16")
    huge = adapter()
    huge.modules[Q_PROJ].b[0] *= 1e6
    with pytest.raises(UsageError, match="has numbers that F16 cannot hold"):
        write(tmp_path / "new.gguf", huge, model, old, PROVENANCE)

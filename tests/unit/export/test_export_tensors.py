"""Safetensors without a framework: read and written as the reference library does, and damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from mlx_align.errors import DataError, UsageError
from mlx_align.export.tensors import Tensors, Writer, encode
from mlx_align.weights import INDEX

AWKWARD = np.array(
    [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 2**-133, 3e-40, -65504.0, 1 / 3, np.inf, -np.inf, np.nan],
    np.float32,
)
"""Halves between two bfloat16, numbers below the smallest normal ones, and what is no number."""


@pytest.mark.parametrize(("dtype", "kind"), [("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_numbers_are_rounded_as_torch_rounds(dtype: str, kind: torch.dtype) -> None:
    many = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    numbers = np.concatenate([AWKWARD, many])
    expected = torch.from_numpy(numbers).to(kind).view(torch.int16).numpy()
    ours = np.frombuffer(encode(numbers, dtype), np.int16)
    finite = ~np.isnan(numbers)
    np.testing.assert_array_equal(ours[finite], expected[finite])
    back = torch.frombuffer(bytearray(ours[~finite].tobytes()), dtype=kind)
    assert back.isnan().all()


def test_a_nan_with_all_bits_set_stays_one() -> None:
    loud = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert torch.frombuffer(bytearray(encode(loud, "BF16")), dtype=torch.bfloat16).isnan().all()


def test_a_number_too_large_for_f16_is_refused() -> None:
    with pytest.raises(UsageError, match="65504"):
        encode(np.array([70000.0], np.float32), "F16")


def test_files_of_the_reference_library_are_read(tmp_path: Path) -> None:
    values = {kind: torch.randn(3, 5).to(kind) for kind in (torch.float32, torch.float16, torch.bfloat16)}
    tensors = {str(kind): value for kind, value in values.items()} | {"whole": torch.arange(4)}
    save_torch(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    ours = Tensors.open(tmp_path)
    for kind, value in values.items():
        np.testing.assert_array_equal(ours[str(kind)].float32(), value.float().numpy())
        assert ours[str(kind)].float32().flags.writeable
    assert set(ours) == set(tensors) == set(ours.files["model.safetensors"])
    assert ours.metadata("model.safetensors") == {"format": "pt"}
    assert ours["whole"].raw() == tensors["whole"].numpy().tobytes()
    with pytest.raises(UsageError, match="I64"):
        ours["whole"].float32()


def test_the_reference_library_reads_our_files(tmp_path: Path) -> None:
    first, second = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((0, 4), np.float32)
    file = tmp_path / "ours.safetensors"
    with Writer(file, [("b", "F32", (2, 3)), ("a", "F16", (0, 4))], {"note": "ü"}) as writer:
        writer.write("b", encode(first, "F32"))
        writer.write("a", encode(second, "F16"))
    read = load_file(file)
    np.testing.assert_array_equal(read["b"], first)
    assert read["a"].shape == (0, 4)
    assert Tensors.open(tmp_path).metadata("ours.safetensors") == {"note": "ü"}


def test_a_writer_wants_every_tensor_in_its_turn(tmp_path: Path) -> None:
    entries = [("a", "F32", (2,)), ("b", "F32", (2,))]
    with pytest.raises(ValueError, match="was to come next"), Writer(tmp_path / "1", entries, {}) as writer:
        writer.write("b", bytes(8))
    with pytest.raises(ValueError, match="7 bytes"), Writer(tmp_path / "2", entries, {}) as writer:
        writer.write("a", bytes(7))
    with (
        pytest.raises(ValueError, match="'b' was not written"),
        Writer(tmp_path / "3", entries, {}) as writer,
    ):
        writer.write("a", bytes(8))


def small_file(folder: Path, name: str = "model.safetensors", tensor: str = "a") -> Path:
    folder.mkdir(exist_ok=True)
    save_file({tensor: np.arange(8, dtype=np.float32)}, folder / name)
    return folder / name


def test_the_index_says_which_files_belong_to_the_model(tmp_path: Path) -> None:
    for name, tensor in (
        ("model-1.safetensors", "a"),
        ("model-2.safetensors", "b"),
        ("consolidated.safetensors", "c"),
    ):
        small_file(tmp_path, name, tensor)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert Tensors.open(tmp_path).files == {"model-1.safetensors": ["a"], "model-2.safetensors": ["b"]}


def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    small_file(tmp_path / "elsewhere")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "elsewhere/model.safetensors"}}))
    with pytest.raises(DataError, match="outside its folder"):
        Tensors.open(tmp_path)


def test_a_name_in_two_files_is_refused(tmp_path: Path) -> None:
    small_file(tmp_path, "one.safetensors")
    small_file(tmp_path, "two.safetensors")
    with pytest.raises(DataError, match="'a' is in two files"):
        Tensors.open(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder has no"):
        Tensors.open(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"0",
        lambda data: data[:20],
        lambda data: b"",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b'"shape":[8]', b'"shape":[9]'),
        lambda data: data.replace(b'"shape":[8]', b'"shape":123'),
        lambda data: data.replace(b"[0,32]", b"[4,36]"),
        lambda data: data.replace(b'"dtype"', b'"dtyqe"'),
    ],
)
def test_damage_is_noticed_before_anything_is_read(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    file = small_file(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match="not a whole safetensors file"):
        Tensors.open(tmp_path)


def test_a_negative_size_is_damage(tmp_path: Path) -> None:
    with Writer(tmp_path / "model.safetensors", [("a", "F32", (-2, -4))], {}) as writer:
        writer.write("a", bytes(32))
    with pytest.raises(DataError, match="not a whole safetensors file"):
        Tensors.open(tmp_path)

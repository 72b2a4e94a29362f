"""MLX's own quantiser is the oracle: the same words, and the same numbers out of them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_align.errors import UsageError
from mlx_align.export.quantised import AFFINE_BITS, FLOAT_MODES, Quantised, dequantise, quantise


def matrix(rows: int = 12, width: int = 384) -> np.ndarray:
    """Weights with a row of zeros, a row of one number, and ranges on one side of 0."""
    weight = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    weight[0], weight[1], weight[2], weight[3] = 0, 0.25, abs(weight[2]) + 1, -abs(weight[3]) - 1
    return weight


@pytest.mark.parametrize("bits", AFFINE_BITS)
@pytest.mark.parametrize("group", [32, 64, 128])
def test_affine_is_mlxs(bits: int, group: int) -> None:
    weight = matrix().reshape(3, 4, 384)
    ours = quantise(weight, Quantised(bits, group))
    theirs = mx.quantize(mx.array(weight), group_size=group, bits=bits)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, np.array(other))
    read = dequantise(ours[0], ours[1], ours[2], Quantised(bits, group))
    expected = np.array(mx.dequantize(*theirs, group_size=group, bits=bits))
    np.testing.assert_allclose(read, expected, rtol=0, atol=1e-6)  # MLX may fuse the product with the sum
    assert abs(read - weight).max() < 8 / 2**bits


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quantise(matrix(), Quantised(3, 64))
    monkeypatch.setattr("mlx_align.export.quantised.BLOCK", 1000)
    for mine, other in zip(quantise(matrix(), Quantised(3, 64)), whole, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("mode", FLOAT_MODES)
def test_the_float_modes_are_read_as_mlx_reads_them(mode: str) -> None:
    bits, group = FLOAT_MODES[mode]
    packed, scales = mx.quantize(mx.array(matrix()[2:]), group_size=group, bits=bits, mode=mode)
    expected = mx.dequantize(packed, scales, group_size=group, bits=bits, mode=mode, dtype=mx.float32)
    read = dequantise(np.array(packed), np.array(scales), None, Quantised(bits, group, mode))
    np.testing.assert_array_equal(read, np.array(expected))


def test_what_is_not_known_is_refused() -> None:
    for bits, group, mode in (
        (7, 64, "affine"),
        (4, 48, "affine"),
        (4, 0, "affine"),
        (4, 64, "mxfp4"),
        (4, 32, "x"),
    ):
        with pytest.raises(UsageError, match="cannot be read here"):
            Quantised(bits, group, mode)
    with pytest.raises(UsageError, match="cannot be quantised to mxfp4"):
        quantise(matrix(), Quantised(4, 32, "mxfp4"))
    with pytest.raises(UsageError, match="cannot be cut into groups of 128"):
        quantise(matrix(width=64), Quantised(4, 128))

"""MLX's quantised matrices in numpy, in the same words and to the same numbers.

A row is cut into groups of `group_size` numbers. "affine" stores q of `bits` bits, where number =
scale * q + bias, and each group's scale and bias. The other modes store tiny floats and each group's scale:

mxfp4   E2M1, groups of 32, scale 2^(byte - 127)
mxfp8   E4M3, groups of 32, scale 2^(byte - 127)
nvfp4   E2M1, groups of 16, scale E4M3

The numbers of a row lie one after another, low bits first, in words of 32 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import UsageError

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
FLOAT_MODES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""Mode -> its bits and group size."""

SMALLEST_SCALE = np.float32(1e-7)
"""MLX's bound, so that a group of equal numbers divides by something."""

BLOCK = 1 << 20
"""Numbers that are quantised at once."""


@dataclass(frozen=True)
class Quantised:
    """How a matrix is quantised.

    Raises:
        UsageError: MLX has no such quantisation.
    """

    bits: int
    group_size: int
    mode: str = "affine"

    def __post_init__(self) -> None:
        affine = (
            self.mode == "affine" and self.bits in AFFINE_BITS and self.group_size % 32 == 0 < self.group_size
        )
        if not affine and FLOAT_MODES.get(self.mode) != (self.bits, self.group_size):
            raise UsageError(
                f"{self.bits} bits in groups of {self.group_size} ({self.mode}) cannot be read here"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """As config.json has it for a module, where "affine" goes without saying."""
        mode = {} if self.mode == "affine" else {"mode": self.mode}
        return {"group_size": self.group_size, "bits": self.bits, **mode}


def unpacked_width(how: Quantised, words: int) -> int:
    """How many numbers these many words of 32 bits hold."""
    return words * 32 // how.bits


def dequantise(
    packed: NDArray[np.unsignedinteger[Any]],
    scales: NDArray[Any],
    biases: NDArray[np.float32] | None,
    how: Quantised,
) -> NDArray[np.float32]:
    """The numbers that a quantised matrix stands for.

    Args:
        packed: uint32, (..., in * bits / 32).
        scales: (..., in / group_size); float32 if affine, else bytes.
        biases: float32 like `scales` if affine, else None.
        how: the quantisation.

    Returns:
        (..., in).
    """
    codes = _unpack(packed, how.bits)
    if how.mode == "affine":
        numbers = codes.astype(np.float32)
    else:
        numbers = (_E4M3 if how.mode == "mxfp8" else _E2M1)[codes]
        scales = _E4M3[scales] if how.mode == "nvfp4" else np.exp2(scales.astype(np.float32) - 127)
    groups = numbers.reshape(*scales.shape, how.group_size)
    groups *= scales[..., None]
    if biases is not None:
        groups += biases[..., None]
    return numbers


def quantise(
    weight: NDArray[np.float32], how: Quantised
) -> tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]:
    """Quantise a matrix as MLX does in mode "affine".

    Args:
        weight: (..., in).
        how: the quantisation.

    Returns:
        Packed words (..., in * bits / 32), scales and biases (..., in / group_size).

    Raises:
        UsageError: the mode is another one, or `in` is no multiple of the group size.
    """
    if how.mode != "affine":
        raise UsageError(
            f"weights cannot be quantised to {how.mode} here", hint="Keep them in full, or use affine."
        )
    if weight.shape[-1] % how.group_size:
        raise UsageError(f"{weight.shape[-1]} numbers a row cannot be cut into groups of {how.group_size}")
    rows = weight.reshape(-1, weight.shape[-1])
    step = max(1, BLOCK // weight.shape[-1])
    blocks = [_quantise(rows[begin : begin + step], how) for begin in range(0, len(rows), step)]
    packed, scales, biases = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    lead = weight.shape[:-1]
    return packed.reshape(*lead, -1), scales.reshape(*lead, -1), biases.reshape(*lead, -1)


def _quantise(
    rows: NDArray[np.float32], how: Quantised
) -> tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]:
    """One block of rows. The end of the range that is farther from 0 becomes exact, and so does 0 itself."""
    groups = rows.reshape(len(rows), -1, how.group_size)
    low, high = groups.min(-1), groups.max(-1)
    levels = np.float32(2**how.bits - 1)
    scale = np.maximum((high - low) / levels, SMALLEST_SCALE)
    negative = np.abs(low) > np.abs(high)
    scale = np.where(negative, scale, -scale)
    edge = np.where(negative, low, high)
    steps = np.rint(edge / scale)
    scale = np.where(steps != 0, edge / np.where(steps != 0, steps, 1), scale)
    bias = np.where(steps != 0, edge, np.float32(0))
    codes = np.clip(np.rint((groups - bias[..., None]) / scale[..., None]), 0, levels).astype(np.uint32)
    return _pack(codes.reshape(len(rows), -1), how.bits), scale, bias


def _cycle(bits: int) -> tuple[int, int]:
    """After how many numbers, and words, a number begins again where a word does."""
    common = math.gcd(32, bits)
    return 32 // common, bits // common


def _unpack(packed: NDArray[np.unsignedinteger[Any]], bits: int) -> NDArray[np.uint8]:
    numbers, words = _cycle(bits)
    cycles = packed.reshape(*packed.shape[:-1], -1, words)
    codes = np.empty((*cycles.shape[:-1], numbers), np.uint8)
    for index in range(numbers):
        word, shift = divmod(index * bits, 32)
        code = cycles[..., word] >> np.uint32(shift)
        if shift + bits > 32:
            code |= cycles[..., word + 1] << np.uint32(32 - shift)
        codes[..., index] = code & np.uint32(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], -1)


def _pack(codes: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    numbers, words = _cycle(bits)
    cycles = codes.reshape(*codes.shape[:-1], -1, numbers)
    packed = np.zeros((*cycles.shape[:-1], words), np.uint32)
    for index in range(numbers):
        word, shift = divmod(index * bits, 32)
        packed[..., word] |= cycles[..., index] << np.uint32(shift)
        if shift + bits > 32:
            packed[..., word + 1] |= cycles[..., index] >> np.uint32(32 - shift)
    return packed.reshape(*codes.shape[:-1], -1)


def _tiny_floats(exponent_bits: int, mantissa_bits: int, bias: int) -> NDArray[np.float32]:
    """The numbers of a tiny float format by their codes: sign, exponent, mantissa."""
    codes = np.arange(2 ** (1 + exponent_bits + mantissa_bits))
    mantissa = (codes % 2**mantissa_bits) / 2**mantissa_bits
    exponent = codes >> mantissa_bits & (2**exponent_bits - 1)
    size = np.where(exponent > 0, (1 + mantissa) * 2.0 ** (exponent - bias), mantissa * 2.0 ** (1 - bias))
    negative = codes >> (exponent_bits + mantissa_bits)
    return np.asarray(np.where(negative, -size, size), np.float32)


_E2M1 = _tiny_floats(2, 1, bias=1)
_E4M3 = _tiny_floats(4, 3, bias=7)

"""Safetensors without a framework: any dtype, one tensor at a time.

A file is the length of a JSON table, the table of every tensor's dtype, shape and place, and then the bytes.
 numpy has no bfloat16, so numbers are handed out as float32 and rounded again when they are written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import DataError, UsageError
from mlx_align.weights import weight_files

Entry = tuple[str, str, tuple[int, ...]]
"""A tensor that will be written: name, dtype, shape."""

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16")
"""The dtypes of weights: those that `Tensor.float32` reads and `encode` writes."""

LONGEST_HEADER = 100_000_000
"""Bytes, as in the reference implementation: a damaged length must not fill the memory."""

BLOCK = 1 << 20
"""Numbers that are rounded at once, so that no second copy of a large tensor is made on the way."""


@dataclass(frozen=True)
class Tensor:
    """A tensor that lies in a file; nothing is read before it is asked for.

    Args:
        name: its name in the file.
        dtype: as safetensors calls it: "F32", "F16", "BF16", "U32" and so on.
        shape: its shape.
        file: where it lies.
        begin, end: its bytes in that file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    def raw(self) -> memoryview:
        """The bytes as they lie on the disk, row by row, little end first.

        Raises:
            DataError: the file has become shorter.
        """
        buffer = memoryview(bytearray(self.end - self.begin))
        with self.file.open("rb") as file:
            file.seek(self.begin)
            if file.readinto(buffer) != len(buffer):
                raise DataError(f"the file ends within '{self.name}'", where=str(self.file))
        return buffer

    def float32(self) -> NDArray[np.float32]:
        """The numbers, in an array of their own.

        Raises:
            UsageError: the dtype is none of `FLOATS`.
        """
        if self.dtype not in FLOATS:
            raise UsageError(
                f"'{self.name}' has the dtype {self.dtype}, not that of a weight", where=str(self.file)
            )
        if self.dtype == "F32":
            return np.frombuffer(self.raw(), "<f4").reshape(self.shape)
        if self.dtype == "F16":
            return np.frombuffer(self.raw(), "<f2").astype(np.float32).reshape(self.shape)
        bits = np.frombuffer(self.raw(), "<u2").astype(np.uint32)  # a bfloat16 is a float32's upper half
        bits <<= 16
        return bits.view(np.float32).reshape(self.shape)

    def integers(self) -> NDArray[np.unsignedinteger[Any]]:
        """The numbers of a packed tensor (U32 or U8), unchanged.

        Raises:
            UsageError: it has another dtype.
        """
        if self.dtype not in ("U32", "U8"):
            raise UsageError(
                f"'{self.name}' has the dtype {self.dtype}, not a packed one", where=str(self.file)
            )
        numbers: NDArray[np.unsignedinteger[Any]] = np.frombuffer(self.raw(), f"<u{ITEM_BYTES[self.dtype]}")
        return numbers.reshape(self.shape)


class Tensors(Mapping[str, Tensor]):
    """The tensors of a folder by name, whichever file each lies in.

    `files` has the names in each file, in the order of their bytes.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files: dict[str, list[str]] = {}
        self._tensors: dict[str, Tensor] = {}
        self._metadata: dict[str, dict[str, str]] = {}
        for path in paths:
            self._add(path)

    @classmethod
    def open(cls, folder: Path, pattern: str = "*.safetensors") -> Tensors:
        """Read the headers of a folder's files.

        Args:
            folder: where they lie.
            pattern: which files, if no index names them and there is no model.safetensors.

        Raises:
            DataError: there is none, or one of them is not a safetensors file.
        """
        paths = weight_files(folder, pattern)
        if not paths:
            raise DataError(f"the folder has no {pattern}", where=str(folder))
        return cls(paths)

    def metadata(self, file: str) -> dict[str, str]:
        """The free text that one of `files` carries, by key."""
        return dict(self._metadata[file])

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _add(self, path: Path) -> None:
        try:
            tensors, self._metadata[path.name] = _header(path)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"not a whole safetensors file: {error}", where=str(path), hint="Fetch or copy it again."
            ) from None
        twice = sorted(tensor.name for tensor in tensors if tensor.name in self._tensors)
        if twice:
            raise DataError(f"'{twice[0]}' is in two files", where=str(path))
        self.files[path.name] = [tensor.name for tensor in tensors]
        self._tensors |= {tensor.name: tensor for tensor in tensors}


def _header(path: Path) -> tuple[list[Tensor], dict[str, str]]:
    """The tensors of a file in the order of their bytes, and its metadata."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"its header would have {length} bytes")
        table: dict[str, Any] = json.loads(file.read(length))
    metadata = table.pop("__metadata__", None) or {}
    tensors = [_entry(name, facts, path, 8 + length) for name, facts in table.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    end = 8 + length
    for tensor in tensors:
        if tensor.begin != end:
            raise ValueError(f"'{tensor.name}' does not begin where the tensor before it ends")
        end = tensor.end
    if path.stat().st_size != end:
        raise ValueError(f"it has {path.stat().st_size} bytes, its header says {end}")
    return tensors, {str(key): str(value) for key, value in metadata.items()}


def _entry(name: str, facts: Mapping[str, Any], path: Path, data: int) -> Tensor:
    dtype, shape = str(facts["dtype"]), tuple(int(size) for size in facts["shape"])
    begin, end = (data + int(offset) for offset in facts["data_offsets"])
    if min(shape, default=0) < 0 or (dtype in ITEM_BYTES and end - begin != size_of((name, dtype, shape))):
        raise ValueError(f"'{name}' has {end - begin} bytes, which is not its shape {shape} in {dtype}")
    return Tensor(name, dtype, shape, path, begin, end)


def size_of(entry: Entry) -> int:
    """The bytes of a tensor that is to be written."""
    _, dtype, shape = entry
    return ITEM_BYTES[dtype] * math.prod(shape)


def encode(array: NDArray[np.float32], dtype: str) -> memoryview:
    """Numbers as the bytes of "F32", "F16" or "BF16", rounded to the nearest, halves to even.

    Raises:
        UsageError: a number is too large for "F16".
        ValueError: the dtype is none of `FLOATS`.
    """
    if dtype not in FLOATS:
        raise ValueError(dtype)
    if dtype == "F32":
        return _bytes_of(np.ascontiguousarray(array, "<f4"))
    flat = np.ascontiguousarray(array).reshape(-1)
    rounded = np.empty(flat.size, "<u2")
    halve = _float16 if dtype == "F16" else _bfloat16
    for begin in range(0, flat.size, BLOCK):
        rounded[begin : begin + BLOCK] = halve(flat[begin : begin + BLOCK])
    return _bytes_of(rounded)


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """An array's own bytes, no copy of them."""
    return array.reshape(-1).view(np.uint8).data


def _float16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    with np.errstate(over="ignore"):
        halves = numbers.astype("<f2")
    if np.isinf(halves).sum() != np.isinf(numbers).sum():
        raise UsageError(
            "a weight is larger than the largest f16, 65504",
            hint="Choose bf16 or f32; bf16 takes as much space.",
        )
    return halves.view("<u2")


def _bfloat16(numbers: NDArray[np.float32]) -> NDArray[np.uint32]:
    bits = numbers.view(np.uint32)
    halves = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(
        np.isnan(numbers), (bits >> 16) | 0x40, halves
    )  # the carry could make an infinity of a NaN


class Writer:
    """Writes one safetensors file, tensor by tensor; what is written is not kept.

    Args:
        path: the new file.
        entries: name, dtype and shape of every tensor, in the order in which they will be written.
        metadata: free text by key.
    """

    def __init__(self, path: Path, entries: Sequence[Entry], metadata: Mapping[str, str]) -> None:
        self._path, self._entries, self._metadata = path, list(entries), dict(metadata)
        self._done = 0
        self._file: BinaryIO

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        self._file.write(self._header())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and self._done < len(self._entries):
            raise ValueError(f"'{self._entries[self._done][0]}' was not written")

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Append the next tensor.

        Raises:
            ValueError: it is another tensor's turn, or it has another size.
        """
        expected = self._entries[self._done]
        if (name, len(data)) != (expected[0], size_of(expected)):
            raise ValueError(f"'{name}' has {len(data)} bytes; {expected} was to come next")
        self._file.write(data)
        self._done += 1

    def _header(self) -> bytes:
        table: dict[str, Any] = {"__metadata__": self._metadata} if self._metadata else {}
        begin = 0
        for entry in self._entries:
            name, dtype, shape = entry
            end = begin + size_of(entry)
            table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
            begin = end
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # so that the numbers begin at a multiple of 8
        return len(text).to_bytes(8, "little") + text

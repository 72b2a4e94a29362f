"""A GGUF file that is there already: its keys as they lie in it, and its tensors.

gguf-py finds where everything lies. What is kept is copied byte by byte, since its writer leaves out what it
cannot say, such as an empty list.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import DataError, UsageError

CHUNK = 1 << 22
"""Bytes that are copied at once."""


@dataclass(frozen=True)
class Stored:
    """A tensor of a GGUF file.

    Args:
        name: GGUF's name.
        shape: (out, in), (experts, out, in) or (n,).
        kind: a gguf.GGMLQuantizationType.
        begin: its first byte in the file.
        size: its bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: Any
    begin: int
    size: int

    def info(self, offset: int) -> bytes:
        """Its entry in a file's table.

        Args:
            offset: where its bytes will lie after the end of the header.
        """
        name, dimensions = self.name.encode(), self.shape[::-1]
        return struct.pack(
            f"<Q{len(name)}sI{len(dimensions)}QIQ",
            len(name), name, len(dimensions), *dimensions, int(self.kind), offset,
        )  # fmt: skip


def stored(name: str, shape: tuple[int, ...], kind: Any) -> Stored:
    """A tensor that is yet to be written; the last axis is a multiple of the kind's block."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[kind]
    return Stored(name, shape, kind, 0, math.prod(shape) // block * size)


class Existing:
    """A GGUF file, of which only the header is read before it is asked for more.

    Args:
        file: one whole model.

    Raises:
        UsageError: it is one part of several, or for machines of another byte order.
        DataError: it is no GGUF file, or a damaged one.
    """

    def __init__(self, file: Path) -> None:
        import gguf

        try:
            reader = gguf.GGUFReader(file)
        except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
            raise DataError(f"not a GGUF file that can be read here: {error}", where=str(file)) from None
        self.file = file
        self._reader = reader
        self.alignment = int(reader.alignment)
        self.tensors = [
            Stored(
                tensor.name,
                tuple(tensor.shape.tolist()[::-1]),
                tensor.tensor_type,
                tensor.data_offset,
                tensor.n_bytes,
            )
            for tensor in reader.tensors
        ]
        if reader.byte_order == "S":
            raise UsageError("the file is for machines of another byte order", where=str(file))
        if (self.value("split.count") or 1) > 1:
            raise UsageError(
                "the file is one part of several, and a model is grafted onto one file",
                where=str(file),
                hint="Join them first: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf",
            )
        if not self.tensors or max(one.begin + one.size for one in self.tensors) > file.stat().st_size:
            raise DataError("the file ends before its last tensor", where=str(file))

    def value(self, key: str) -> Any:
        """A key's value; None if the file does not have it."""
        field = self._reader.get_field(key)
        return None if field is None else field.contents()

    def keys(self, without: str) -> tuple[int, bytes]:
        """All keys but one.

        Returns:
            How many they are, and their bytes.
        """
        fields = [field for name, field in self._reader.fields.items() if not name.startswith("GGUF.")]
        ends = [field.offset for field in fields[1:]] + [self._reader.tensors[0].field.offset]
        kept = [
            self._reader.data[field.offset : end].tobytes()
            for field, end in zip(fields, ends, strict=True)
            if field.name != without
        ]
        return len(kept), b"".join(kept)

    @property
    def version(self) -> int:
        """The version of the format."""
        return int(self.value("GGUF.version"))

    def float32(self, tensor: Stored) -> NDArray[np.float32]:
        """A tensor's numbers, dequantised, in an array of their own.

        Raises:
            UsageError: gguf-py does not know how they are quantised.
        """
        import gguf

        with self.file.open("rb") as file:
            file.seek(tensor.begin)
            raw = np.fromfile(file, np.uint8, tensor.size).reshape(*tensor.shape[:-1], -1)
        try:
            values: NDArray[np.float32] = gguf.quants.dequantize(raw, tensor.kind)
        except NotImplementedError:
            raise UsageError(
                f"'{tensor.name}' is {tensor.kind.name}, which is not read here",
                where=str(self.file),
                hint="Give a file in F16, BF16, Q8_0 or a K-quant.",
            ) from None
        return values

    def chunks(self, tensor: Stored) -> Iterator[bytes]:
        """A tensor's bytes as they are, a few at a time."""
        with self.file.open("rb") as file:
            file.seek(tensor.begin)
            for left in range(tensor.size, 0, -CHUNK):
                yield file.read(min(left, CHUNK))


def write_header(
    file: BinaryIO, version: int, keys: tuple[int, bytes], tensors: list[Stored], alignment: int
) -> None:
    """Write what comes before the tensors; each of them is then written in this order, and padded."""
    file.write(struct.pack("<4sIQQ", b"GGUF", version, len(tensors), keys[0]) + keys[1])
    offset = 0
    for tensor in tensors:
        file.write(tensor.info(offset))
        offset += tensor.size + -tensor.size % alignment
    pad(file, alignment)


def pad(file: BinaryIO, alignment: int) -> None:
    """Fill up to the next multiple of the alignment."""
    file.write(b"\0" * (-file.tell() % alignment))


def text_key(key: str, text: str) -> bytes:
    """A key with a text, as it lies in a file."""
    import gguf

    name, value = key.encode(), text.encode()
    kind = int(gguf.GGUFValueType.STRING)
    return struct.pack(f"<Q{len(name)}sIQ", len(name), name, kind, len(value)) + value

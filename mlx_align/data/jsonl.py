"""Strict JSON lines: every line is one object, or the error says which line is not, and why."""

from __future__ import annotations

import codecs
import json
import re
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from mlx_align.errors import DataError
from mlx_align.units import size

MAX_DIGITS = 100
"""Longest integer that is read: a longer one is damage, and the time to read one grows as its square."""
MAX_LINE = 64_000_000
"""Longest line that is read, in bytes: a longer one is no row, but most likely a whole file in one line."""

_ARRAY = "JSON lines hold one object a line, not one array: jq -c '.[]' data.json > data.jsonl"
_CUT_OFF = "The file ends in the middle of this line: it was probably cut off while it was written or copied."
_ONE_OBJECT = 'Each line must be one whole JSON object, such as {"prompt": ...}.'
_ONCE = "Write the rows into a file first: they are read more than once."
_UTF8 = "Save the file as UTF-8: iconv -f THE-OLD-ENCODING -t UTF-8 old.jsonl > new.jsonl"

_KEY = re.compile(r'[\s,{]*("(?:[^"\\]|\\.)*")\s*:\s*')


class _RefusedError(Exception):
    """A line that is not one well-formed object; `key` is the key at fault where there is one to name."""

    def __init__(self, message: str, key: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.hint = hint


def _raise(error: DataError) -> NoReturn:
    raise error from None


def read_jsonl(
    path: Path | str, refuse: Callable[[DataError], None] = _raise
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON lines file, each with its line number from 1; blank lines are left out.

    Args:
        path: the file.
        refuse: given the error of each line that is not exactly one well-formed object: not UTF-8, not JSON,
            cut off, a key twice, NaN or Infinity, a number of absurd length, nesting too deep to read, half
            of a surrogate pair. It raises that error, or has the reading go on with the next line.

    Raises:
        DataError: it is no file, the file cannot be read, a line is too long, or what `refuse` raised.
    """
    for number, raw in _raw_lines(path):
        line = _without_bom(path, raw) if number == 1 else raw
        if not line.strip():
            continue
        try:
            found = _parse(_decode(line).rstrip("\r\n"), _hint(number, line))
        except _RefusedError as error:
            refuse(DataError.at(path, number, error.key, str(error), error.hint))
        else:
            yield number, found


def json_type(value: object) -> str:
    """What a person calls a JSON value's type: "null", "a number", "a list", ..."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def _raw_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """Lines split at b"\\n" and nowhere else: U+2028 and its kin may stand inside a JSON string."""
    try:
        mode = Path(path).stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a pipe may take for ever
            raise DataError.at(path, None, None, "this is a pipe or a device, not a file", _ONCE)
        with Path(path).open("rb") as file:
            for number, line in enumerate(iter(partial(file.readline, MAX_LINE + 1), b""), start=1):
                if len(line) > MAX_LINE:
                    message = f"the line has more than {size(MAX_LINE)}"
                    hint = _ARRAY if _begins_array(number, line) else _ONE_OBJECT
                    raise DataError.at(path, number, None, message, hint)
                yield number, line
    except FileNotFoundError:
        raise DataError.at(path, None, None, "there is no such file") from None
    except IsADirectoryError:
        raise DataError.at(path, None, None, "this is a folder, not a file") from None
    except OSError as error:
        raise DataError.at(path, None, None, f"the file cannot be read: {error.strerror}") from None


def _without_bom(path: Path | str, first: bytes) -> bytes:
    """The first line without the mark that some editors put before UTF-8."""
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError.at(path, None, None, "the file is UTF-16, not UTF-8", _UTF8)
    return first.removeprefix(codecs.BOM_UTF8)


def _hint(number: int, line: bytes) -> str:
    """What to do about a line that is not one JSON object."""
    if _begins_array(number, line):
        return _ARRAY
    return _ONE_OBJECT if line.endswith(b"\n") else _CUT_OFF


def _begins_array(number: int, line: bytes) -> bool:
    return number == 1 and line.lstrip().startswith(b"[")


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        cut_off = error.end == len(line) and error.reason == "unexpected end of data"
        message = f"byte {error.start + 1} of the line is not UTF-8"
        raise _RefusedError(message, hint=_CUT_OFF if cut_off else _UTF8) from None


def _parse(text: str, hint: str) -> dict[str, Any]:
    """The object that a line is; `hint` is for a line that is something else."""
    try:
        value = _DECODER.decode(text)
        if not isinstance(value, dict):
            raise _RefusedError(f"the line is {json_type(value)}, not an object", hint=hint)
        if "\\u" in text:  # only an escape can bring half of a surrogate pair past the UTF-8 decoder
            _refuse_lone_surrogates(value)
        return value
    except json.JSONDecodeError as error:
        raise _RefusedError(f"not valid JSON at column {error.colno}: {error.msg}", hint=hint) from None
    except RecursionError:
        raise _RefusedError("nested too deeply to be read", _unreadable_key(text)) from None
    except _RefusedError as error:
        error.key = error.key or _unreadable_key(text)
        raise


def _unreadable_key(text: str) -> str | None:
    """The first top-level key whose value the decoder refuses."""
    position = 0
    while match := _KEY.match(text, position):
        try:
            _, position = _DECODER.raw_decode(text, match.end())
        except (ValueError, RecursionError, _RefusedError):
            return str(json.loads(match[1]))
    return None


def _refuse_lone_surrogates(row: dict[str, Any]) -> None:
    """Refuse text that cannot be encoded, and so could be neither tokenised nor written to a log."""
    for key, value in row.items():
        try:
            json.dumps({key: value}, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            name = key.encode("ascii", "backslashreplace").decode("ascii")
            raise _RefusedError("half of a surrogate pair is not a character", name) from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise _RefusedError("the key is there twice in one object", key)
        unique[key] = value
    return unique


def _refuse_constant(name: str) -> float:
    raise _RefusedError(f"{name} is not JSON; use null, or leave the key out")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _RefusedError(
            f"an integer of {len(digits):,} digits; the longest that is read has {MAX_DIGITS}"
        )
    return int(digits)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_int=_integer
)

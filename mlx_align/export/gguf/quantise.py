"""K-quants and whatever else only llama.cpp writes, by its own program or by llama-cpp-python.

Run as a program (`python -m mlx_align.export.gguf.quantise SOURCE TARGET NUMBER`) it is the second way: the
library works in a process of its own, because it ends its process where it meets something unexpected.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from mlx_align import installing
from mlx_align.errors import AlignError, UsageError

PROGRAM, LIBRARY = "llama-quantize", "llama_cpp"

TYPES = (
    "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k",
    "iq3_m", "iq4_nl", "iq4_xs",
)  # fmt: skip
"""Types of a whole file that need no importance matrix."""


def available() -> str | None:
    """What would do it: "llama-quantize", "llama_cpp", or None if neither is here."""
    if shutil.which(PROGRAM) is not None:
        return PROGRAM
    return LIBRARY if importlib.util.find_spec(LIBRARY) is not None else None


def check(source: Path, target: Path, kind: str) -> None:
    """See that a file can be quantised, before it is written.

    Args:
        source: of the command that a person can run elsewhere.
        target: what that would make.
        kind: one of `TYPES`.

    Raises:
        UsageError: the type is unknown, or llama.cpp is not here; the hint is the command to run.
    """
    if kind not in TYPES:
        raise UsageError(
            f"'{kind}' is no type that llama.cpp quantises to", hint=f"Choose {', '.join(TYPES)}."
        )
    if available() is None:
        command = shlex.join([PROGRAM, str(source), str(target), kind.upper()])
        raise UsageError(
            f"{kind} is made by llama.cpp, and neither {PROGRAM} nor llama-cpp-python is here",
            hint=f"Install it: {installing.command('kquants')}. Or write f16 here, and where llama.cpp is: "
            f"{command}",
        )


def quantise(source: Path, target: Path, kind: str) -> None:
    """Write a GGUF again with its matrices in another type.

    Args:
        source: a GGUF in f32, f16 or bf16.
        target: the new file.
        kind: one of `TYPES`.

    Raises:
        UsageError: as in `check`.
        AlignError: llama.cpp failed; what it wrote is removed.
    """
    check(source, target, kind)
    command = _command(source.absolute(), target.absolute(), kind)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0 or not target.is_file():
        target.unlink(missing_ok=True)
        said = (done.stderr + done.stdout).decode("utf-8", errors="replace").strip().splitlines()
        raise AlignError(
            f"llama.cpp could not make {kind} of it (exit code {done.returncode}): " + "\n  ".join(said[-3:]),
            where=str(source),
            hint=f"Try it by itself: {shlex.join(command)}",
        )


def _command(source: Path, target: Path, kind: str) -> list[str]:
    program = shutil.which(PROGRAM)
    if program is not None:
        return [program, str(source), str(target), kind.upper()]
    import gguf

    number = int(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    return [sys.executable, "-P", "-m", __spec__.name, str(source), str(target), str(number)]


def _by_library(source: str, target: str, number: int) -> int:
    """Quantise in this process.

    Returns:
        llama.cpp's answer: 0 if it is done.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = number
    return int(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))


if __name__ == "__main__":
    sys.exit(_by_library(sys.argv[1], sys.argv[2], int(sys.argv[3])))

"""K-quants through whatever of llama.cpp is here, and the command to run where nothing is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mlx_align.errors import AlignError, UsageError
from mlx_align.export.gguf import quantise

FAKE_PROGRAM = """#!{python}
import pathlib, sys
if "{fails}":
    sys.exit("loading\\nno such tensor type")
pathlib.Path(sys.argv[2]).write_text(" ".join(["program", *sys.argv[1:]]))
"""

FAKE_LIBRARY = """
import ctypes, pathlib

class Params(ctypes.Structure):
    _fields_ = [("ftype", ctypes.c_int)]

def llama_model_quantize_default_params():
    return Params()

def llama_model_quantize(source, target, params):
    if b"crash" in source:
        import os
        os.abort()
    pathlib.Path(target.decode()).write_text(f"library {source.decode()} {params._obj.ftype}")
    return 0
"""


@pytest.fixture(autouse=True)
def _nothing_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "modules").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(quantise, "LIBRARY", "a_library_that_is_not_installed")


def program(tmp_path: Path, fails: str = "") -> None:
    """Put a llama-quantize on PATH that writes its arguments, or fails."""
    file = tmp_path / "bin" / "llama-quantize"
    file.write_text(FAKE_PROGRAM.format(python=sys.executable, fails=fails))
    file.chmod(0o755)


def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a llama_cpp importable, here and in a child."""
    (tmp_path / "modules" / "llama_cpp.py").write_text(FAKE_LIBRARY)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    paths = [str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setattr(quantise, "LIBRARY", "llama_cpp")


def test_by_the_program(tmp_path: Path) -> None:
    program(tmp_path)
    source, target = tmp_path / "a b;c.gguf", tmp_path / "out.gguf"
    quantise.quantise(source, target, "q4_k_m")
    assert target.read_text() == f"program {source} {target} Q4_K_M"


def test_by_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, monkeypatch)
    assert quantise.available() == "llama_cpp"
    source, target = tmp_path / "in.gguf", tmp_path / "out.gguf"
    quantise.quantise(source, target, "q6_k")
    assert target.read_text() == f"library {source} 18"


def test_the_program_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, monkeypatch)
    program(tmp_path)
    assert quantise.available() == "llama-quantize"


def test_nothing_is_here(tmp_path: Path) -> None:
    assert quantise.available() is None
    with pytest.raises(UsageError, match="neither llama-quantize nor llama-cpp-python") as caught:
        quantise.check(Path("my model-f16.gguf"), Path("out.gguf"), "q5_k_m")
    assert "llama-quantize 'my model-f16.gguf' out.gguf Q5_K_M" in (caught.value.hint or "")


def test_unknown_type(tmp_path: Path) -> None:
    program(tmp_path)
    with pytest.raises(UsageError, match="'q4_k_x'"):
        quantise.check(tmp_path / "in.gguf", tmp_path / "out.gguf", "q4_k_x")


def test_a_failure_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    program(tmp_path, fails="yes")
    target = tmp_path / "out.gguf"
    target.write_text("a part")
    with pytest.raises(AlignError, match="no such tensor type"):
        quantise.quantise(tmp_path / "in.gguf", target, "q4_k_m")
    assert not target.exists()


def test_a_crash_of_the_library_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, monkeypatch)
    with pytest.raises(AlignError, match=r"exit code -6"):
        quantise.quantise(tmp_path / "crash.gguf", tmp_path / "out.gguf", "q4_k_m")

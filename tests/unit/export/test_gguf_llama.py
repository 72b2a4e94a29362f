"""llama.cpp in its own process: what it says, and what a person reads when it fails or ends."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mlx_align import embedded
from mlx_align.errors import AlignError
from mlx_align.export import llama, llama_worker
from mlx_align.export.base import Base
from mlx_align.export.gguf import convert
from mlx_align.export.llama import LlamaReader
from tests.unit.export.gguf_models import PROVENANCE


@pytest.fixture(scope="module")
def tiny_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a GGUF."""
    file = tmp_path_factory.mktemp("model") / "tiny.gguf"
    convert.write(file, Base.open(embedded.model_folder()), None, PROVENANCE, "f16")
    return file


def test_what_it_answers(tiny_chat: Path) -> None:
    everything = np.arange(1024)[None]
    with LlamaReader(tiny_chat, context=64) as reader:
        ids = reader.encode("<|im_start|>user\n")
        logps = reader.next_logps([ids], everything)
        best = reader.complete(ids, 1)
        answer = reader.answer([{"role": "user", "content": "Hello"}], 4)
        outside = reader.next_logps([ids], np.array([[0, 5000]]))
        with pytest.raises(AlignError, match=r"does not answer.*context size"):
            reader.complete([5] * 2000, 4)
        assert reader.encode("a") == reader.encode("a")  # and it goes on
    assert ids[0] == 1022
    assert logps.dtype == np.float32
    assert np.exp(logps.astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-5)
    assert isinstance(best, str)
    assert answer
    assert outside[0, 1] == -np.inf


def test_a_process_that_ends_is_an_error(tiny_chat: Path) -> None:
    with LlamaReader(tiny_chat, context=64) as reader:
        reader._process.kill()
        with pytest.raises(AlignError, match="its process ended"):
            reader.encode("a")


def test_a_process_that_hangs_is_ended(tiny_chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LlamaReader(tiny_chat, context=64) as reader:
        monkeypatch.setattr(llama, "PATIENCE", 0.1)
        with pytest.raises(AlignError, match="no answer in 0 s"):
            reader._read()  # nothing was asked


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"something else")
    with pytest.raises(AlignError, match="invalid magic") as caught:
        LlamaReader(file)
    assert caught.value.where == str(file)


def test_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_worker, "LIBRARIES", {"a_library_that_is_not_installed": None})
    assert llama.available() is None
    with pytest.raises(AlignError, match=r"llama\.cpp is not installed") as caught:
        LlamaReader(tmp_path / "x.gguf")
    assert "[gguf]" in (caught.value.hint or "")


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("", None), ("0", None), ("many", None)])
def test_threads(asked: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(llama.os, "cpu_count", lambda: 7)
    assert llama._threads() == (threads or 7)


class FakeLlama:
    """As much of llama-cpp-python's class as is used: the next token is the last one plus one."""

    def __init__(self, model: str, **options: Any) -> None:
        self.ctx, self.read, self.options = self, [0], options
        self._lora_adapter = None if options["lora_path"] == "broken" else object()

    def reset(self) -> None:
        self.read = []

    def eval(self, ids: list[int]) -> None:
        self.read += ids

    def n_vocab(self) -> int:
        return 8

    def token_eos(self) -> int:
        return 6

    def detokenize(self, ids: list[int]) -> bytes:
        return "".join(map(str, ids)).encode()


@pytest.fixture
def _llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module llama_cpp around the fake class."""
    import ctypes

    def logits(fake: FakeLlama, position: int) -> Any:
        assert position == -1
        values = [2.0 * (token == fake.read[-1] + 1) for token in range(8)]
        return ctypes.cast((ctypes.c_float * 8)(*values), ctypes.POINTER(ctypes.c_float))

    module = ModuleType("llama_cpp")
    module.Llama, module.llama_get_logits_ith = FakeLlama, logits  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llama_cpp", module)


@pytest.mark.usefixtures("_llama_cpp")
def test_the_other_library() -> None:
    loader = llama_worker.LlamaCppPython("model.gguf", "adapter.gguf", 64, 1)
    request = {"do": "logps", "ids": [1, 2], "tokens": [3, 0, 9]}
    assert llama_worker.answer(loader, request) == pytest.approx(
        [2.0 - np.log(np.exp(2.0) + 7), -np.log(np.exp(2.0) + 7), -np.inf]
    )
    assert llama_worker.answer(loader, {"do": "complete", "ids": [2], "limit": 9}) == "345"
    assert llama_worker.answer(loader, {"do": "complete", "ids": [2], "limit": 2}) == "34"


@pytest.mark.usefixtures("_llama_cpp")
def test_an_adapter_that_the_other_library_did_not_load() -> None:
    with pytest.raises(RuntimeError, match="could not be loaded"):
        llama_worker.LlamaCppPython("model.gguf", "broken", 64, 1)

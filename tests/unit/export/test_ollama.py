"""The Modelfile that is written is the one Ollama reads; `ollama` itself is a script of ours here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chat_templates import chat
from gguf import GGUFWriter
from modelfiles import read_modelfile

from mlx_align.errors import AlignError, DataError, UsageError
from mlx_align.export import ollama
from mlx_align.export.chat_format import find_format, go_template
from mlx_align.export.provenance import Provenance

PROVENANCE = Provenance(
    run="20260101-orpo-tiny",
    method="orpo",
    base="org/tiny\n",
    base_commit=None,
    base_digest="b" * 64,
    adapter_digest="a" * 64,
    data_fingerprint="d" * 64,
    step=50,
    config="",
)
TRICKY = (
    "One line.",
    'She said "yes"',
    '"all of it in quotes"',
    'ends with a quote"',
    '"""',
    'a """ b\nand \\ {{ .System }} # no comment\n\n  indented\n',
    "\n\nblank lines\n\n",
    " spaces around ",
    '"\n"',
    "é 日本 🙂\ttab",
    "FROM elsewhere\nPARAMETER stop x",
)


def a_gguf(file: Path, adds_bos: bool | None = None) -> None:
    """A GGUF file of one number, which says whether BOS is added."""
    writer = GGUFWriter(file, "llama")
    if adds_bos is not None:
        writer.add_add_bos_token(adds_bos)
    writer.add_tensor("output.weight", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def written(
    folder: Path, name: str = "chatml", adds_bos: bool | None = None, **options: object
) -> list[tuple[str, str]]:
    a_gguf(folder / "tiny-Q8_0.gguf", adds_bos)
    path = ollama.write(folder, "tiny-Q8_0.gguf", chat(name), PROVENANCE, **options)  # type: ignore[arg-type]
    assert path == folder / "Modelfile"
    return read_modelfile(path.read_text(encoding="utf-8"))


def fake_ollama(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    binary = folder / "bin" / "ollama"
    binary.parent.mkdir()
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binary.parent}:/usr/bin:/bin")


def test_everything_in_its_place(tmp_path: Path) -> None:
    found = written(tmp_path, system="Be brief.", parameters={"temperature": 0.7, "num_ctx": 4096})
    assert found == [
        ("from", "./tiny-Q8_0.gguf"),
        ("template", go_template(find_format(chat("chatml")))),
        ("parameter stop", "<|im_end|>"),
        ("parameter temperature", "0.7"),
        ("parameter num_ctx", "4096"),
        ("system", "Be brief."),
    ]


def test_the_first_lines_say_what_it_is_and_what_to_type(tmp_path: Path) -> None:
    written(tmp_path)
    first, second, *_ = (tmp_path / "Modelfile").read_text().splitlines()
    assert first == "# org/tiny  after ORPO, run 20260101-orpo-tiny, step 50; written by mlx-align."
    assert "ollama create NAME -f Modelfile" in second


@pytest.mark.parametrize("text", TRICKY)
def test_a_text_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    assert written(tmp_path, system=text)[-1] == ("system", text)


@pytest.mark.parametrize(
    "text", ['stop """\nhere', '"""\n', 'x\n"""\ny', 'x """  \ny', 'x\n"""\t\ny', '""""\n"', '"""\n\n"""']
)
def test_a_text_that_would_end_early_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match='a line ends with """') as caught:
        written(tmp_path, system=text)
    assert caught.value.where == "SYSTEM"
    assert not (tmp_path / "Modelfile").exists()


@pytest.mark.parametrize(
    ("text", "code"), [("a\u200db", "U+200D"), ("a\u00a0b", "U+00A0"), ("\x00", "U+0000")]
)
def test_a_text_that_would_lose_characters_is_refused(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(UsageError, match=rf"cannot be printed: {code.replace('+', '.')}"):
        written(tmp_path, system=text)


@pytest.mark.parametrize(("adds_bos", "kept"), [(True, False), (False, True), (None, False)])
def test_bos_is_in_the_template_where_the_file_adds_none(
    tmp_path: Path, adds_bos: bool | None, kept: bool
) -> None:
    template = dict(written(tmp_path, "llama3", adds_bos))["template"]
    assert ("<|begin_of_text|>" in template) == kept


def test_a_gguf_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGML")
    with pytest.raises(DataError, match="not a GGUF file"):
        ollama.write(tmp_path, "x.gguf", chat("chatml"), PROVENANCE)


def test_a_model_without_system_messages(tmp_path: Path) -> None:
    assert [name for name, _ in written(tmp_path, "gemma2")] == ["from", "template", "parameter stop"]
    assert "has no system message" in (tmp_path / "Modelfile").read_text()
    with pytest.raises(UsageError, match="no place for a system message"):
        written(tmp_path, "gemma2", system="Be brief.")


def test_a_stop_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    stops = [value for name, value in written(tmp_path, "plain") if name == "parameter stop"]
    assert stops == ["<|endoftext|>"]


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    template = '{{ range .Messages }}\n{{ .Role }}: """{{ .Content }}""" {{ end }}'
    with pytest.raises(UsageError, match="cannot be put into Ollama's form"):
        written(tmp_path, "numbered")
    found = written(tmp_path, "numbered", template=template, system="Be brief.")
    assert found[1:] == [("template", template), ("parameter stop", "<|im_end|>"), ("system", "Be brief.")]


def test_an_adapter_beside_its_base(tmp_path: Path) -> None:
    assert written(tmp_path, adapter_gguf="adapter.gguf")[1] == ("adapter", "./adapter.gguf")
    assert "before 0.34.1" in (tmp_path / "Modelfile").read_text()


@pytest.mark.parametrize("name", ["../a.gguf", "a b.gguf", "a.bin", "-a.gguf", "a\n.gguf"])
def test_a_file_that_is_not_in_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a plain file name"):
        ollama.write(tmp_path, name, chat("chatml"), PROVENANCE)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("mirostat", 1.0, "not a parameter"),
        ("num_ctx", 0.5, "must be a whole number"),
        ("temperature", float("nan"), "must be a finite number"),
    ],
)
def test_a_parameter_that_ollama_would_refuse(tmp_path: Path, name: str, value: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        written(tmp_path, parameters={name: value})


@pytest.mark.parametrize(
    ("said", "version", "adapter"),
    [
        ("echo ollama version is 0.33.2", (0, 33, 2), True),
        ("echo Warning: could not connect >&2; echo Warning: client version is 0.34.1", (0, 34, 1), False),
        ("echo ollama version is v1.0.0-rc2", (1, 0, 0), False),
        ("echo ollama version is 0.0.0", None, False),
        ("exit 1", None, False),
    ],
)
def test_which_version_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    version: ollama.Version | None,
    adapter: bool,
) -> None:
    fake_ollama(tmp_path, monkeypatch, said)
    assert ollama.version() == version
    assert ollama.accepts_adapter(ollama.version()) == adapter


def test_it_is_created_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ollama(tmp_path, monkeypatch, 'echo "$@" > seen')
    ollama.create("me/tiny-orpo:q8_0", tmp_path)
    assert (tmp_path / "seen").read_text() == "create me/tiny-orpo:q8_0 -f Modelfile\n"


def test_what_ollama_says_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ollama(tmp_path, monkeypatch, "echo reading >&2; echo Error: no space left >&2; exit 1")
    with pytest.raises(AlignError, match="ollama create failed: Error: no space left") as caught:
        ollama.create("tiny", tmp_path)
    assert caught.value.exit_code == 1


def test_where_ollama_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ollama.version() is None
    with pytest.raises(UsageError, match="not installed") as caught:
        ollama.create("tiny", tmp_path)
    assert "ollama create tiny -f Modelfile" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["", "-q", "a b", "tiny:", "a/b/c/d", "tiny;rm", "../tiny/", "ti\nny"])
def test_a_name_that_ollama_does_not_allow(name: str) -> None:
    with pytest.raises(UsageError, match="not a name that Ollama allows"):
        ollama.create_command(name)

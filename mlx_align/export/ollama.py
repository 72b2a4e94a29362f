"""A folder that Ollama makes a model of: a GGUF file and a Modelfile.

The Modelfile's grammar has no escapes. A text stands between triple quotes, ends where a line ends with
three quotes, and loses every character that Go does not call printable; what cannot be said is refused.

Ollama merges no adapter by itself any more: from 0.34.1 on `ollama create` rejects a Modelfile with ADAPTER,
so a merged GGUF is what works everywhere.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlx_align.data.templates import ChatTokenizer
from mlx_align.errors import AlignError, UsageError
from mlx_align.export.chat_format import ChatFormat, find_format, go_template, stop_texts
from mlx_align.export.gguf.existing import Existing
from mlx_align.export.provenance import Provenance

Version = tuple[int, int, int]

MODELFILE = "Modelfile"
ADDS_BOS = "tokenizer.ggml.add_bos_token"
ADAPTER_ENDED: Version = (0, 34, 1)
"""The first version whose `create` rejects ADAPTER (generative-computing/mellea, issue 1651)."""

WHOLE = ("num_ctx", "num_predict", "seed", "top_k", "repeat_last_n", "num_keep")
PARAMETERS = (
    *WHOLE,
    *("temperature", "top_p", "min_p", "typical_p"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
)
"""The numbers that a Modelfile may set; `stop` comes from the model. Those of `WHOLE` are whole numbers."""

NAME = re.compile(r"([\w.-]+/){0,2}[A-Za-z0-9][\w.-]{0,79}(:[\w.-]{1,80})?", re.ASCII)
"""[host/]namespace/model:tag."""
FILE = re.compile(r"[A-Za-z0-9][\w.+-]*\.gguf", re.ASCII)

_INSTALL = "Install Ollama (https://ollama.com/download) and start it."


def write(
    folder: Path,
    gguf: str,
    chat: ChatTokenizer,
    provenance: Provenance,
    *,
    system: str | None = None,
    parameters: Mapping[str, float] | None = None,
    template: str | None = None,
    adapter_gguf: str | None = None,
) -> Path:
    """Write the Modelfile beside its GGUF file.

    Args:
        folder: has the GGUF file; the Modelfile comes into it.
        gguf: the file's name: the merged model, or the base if there is an adapter beside it.
        chat: the base model's tokenizer and chat template.
        provenance: for the lines on top.
        system: a system message that the model always gets; None: none.
        parameters: sampling parameters to fix, of `PARAMETERS`; what is left out is Ollama's to choose.
        template: a template in Go's language, where the model's own cannot be put into it.
        adapter_gguf: the name of an adapter's GGUF file, for versions before `ADAPTER_ENDED`.

    Returns:
        The Modelfile's path.

    Raises:
        UsageError: the chat template is not of a common shape, or a value cannot be said in a Modelfile.
        DataError: the GGUF file cannot be read.
    """
    for name in filter(None, (gguf, adapter_gguf)):
        if not FILE.fullmatch(name):
            raise UsageError(f"'{name}' is not a plain file name that ends in .gguf", where=MODELFILE)
    lines = [*_comments(provenance, adapter_gguf is not None), "", f"FROM ./{gguf}"]
    lines += [f"ADAPTER ./{adapter_gguf}"] if adapter_gguf is not None else []
    if template is None:
        found = find_format(chat, Existing(folder / gguf).value(ADDS_BOS))
        lines += _from_model(found, system is not None)
    else:
        lines += _talking(template, stop_texts(chat))
    lines += [parameter(name, value) for name, value in (parameters or {}).items()]
    lines += [f"SYSTEM {quoted(system, 'SYSTEM')}"] if system is not None else []
    path = folder / MODELFILE
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _from_model(found: ChatFormat, has_system: bool) -> list[str]:
    """The lines about talking, from the model's own chat template."""
    if found.system == "none" and has_system:
        raise UsageError(
            "the model's chat template has no place for a system message",
            where="SYSTEM",
            hint="Leave it out, or give a Go template that has one: --template FILE.",
        )
    warning = ["# The model's chat template has no system message: one would be left out."]
    return (warning if found.system == "none" else []) + _talking(go_template(found), found.stops)


def _talking(template: str, stops: Sequence[str]) -> list[str]:
    # A stop that is not printable cannot be said; llama.cpp stops at the end tokens without being told.
    return [
        f"TEMPLATE {quoted(template, 'TEMPLATE')}",
        *(f"PARAMETER stop {quoted(stop, 'stop')}" for stop in stops if stop.isprintable()),
    ]


def _comments(provenance: Provenance, adapter: bool) -> list[str]:
    lines = [
        f"{provenance.base} after {provenance.method.upper()}, run {provenance.run}, step {provenance.step};"
        " written by mlx-align.",
        "In this folder:  ollama create NAME -f Modelfile",
        "Then:            ollama run NAME",
    ]
    if adapter:
        ended = ".".join(map(str, ADAPTER_ENDED))
        lines += [
            f"ADAPTER works with Ollama before {ended}. From then on `ollama create` rejects it: export the",
            "merged model instead.",
        ]
    return ["# " + "".join(letter if letter.isprintable() else " " for letter in line) for line in lines]


def quoted(text: str, where: str) -> str:
    """A text as a Modelfile has it, between triple quotes where it needs them.

    Raises:
        UsageError: Ollama would read back another text.
    """
    lost = sorted({letter for letter in text if not letter.isprintable() and letter not in "\n\t"})
    if lost:
        codes = ", ".join(f"U+{ord(letter):04X}" for letter in lost[:5])
        raise UsageError(f"Ollama drops characters that cannot be printed: {codes}", where=where)
    # At every line's end it looks whether all that it has read is a text in quotes, blanks at its end aside.
    read = (f'"""{text[:at]}'.rstrip() for at, letter in enumerate(text) if letter == "\n")
    if any(len(so_far) >= 6 and so_far.endswith('"""') for so_far in read):
        raise UsageError('a line ends with """, where Ollama would take the text to end', where=where)
    return f'"""{text}"""' if "\n" in text or '"' in text else f'"{text}"'


def parameter(name: str, value: float) -> str:
    """The line that sets a parameter.

    Raises:
        UsageError: there is none of this name, or it takes no such number.
    """
    if name not in PARAMETERS:
        raise UsageError(
            f"'{name}' is not a parameter of a Modelfile",
            where=f"PARAMETER {name}",
            hint=f"They are: {', '.join(PARAMETERS)}.",
        )
    if not math.isfinite(value) or (name in WHOLE and value != int(value)):
        kind = "whole" if name in WHOLE else "finite"
        raise UsageError(f"{name} must be a {kind} number, not {value:g}", where=f"PARAMETER {name}")
    return f"PARAMETER {name} {int(value) if name in WHOLE else value}"


def installed() -> bool:
    """Whether Ollama's program is here."""
    return shutil.which("ollama") is not None


def version() -> Version | None:
    """The version of Ollama that is installed here; None if there is none, or it does not say."""
    binary = shutil.which("ollama")
    if binary is None:
        return None
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version is v?(\d+)\.(\d+)\.(\d+)", done.stdout + done.stderr)
    if found is None:
        return None
    numbers = (int(found[1]), int(found[2]), int(found[3]))
    return numbers if any(numbers) else None  # a build of one's own is 0.0.0


def accepts_adapter(installed: Version | None) -> bool:
    """Whether `ollama create` takes ADAPTER; an unknown version is taken for a new one."""
    return installed is not None and installed < ADAPTER_ENDED


def create_command(name: str) -> list[str]:
    """What makes a model of the folder it is run in.

    Raises:
        UsageError: Ollama does not allow the name.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' is not a name that Ollama allows",
            hint="Letters, digits, '.', '-' and '_', perhaps a tag: my-model:q8_0.",
        )
    return ["ollama", "create", name, "-f", MODELFILE]


def create(name: str, folder: Path) -> None:
    """Run `ollama create` in a folder that `write` made.

    Raises:
        UsageError: the name is not allowed, or Ollama is not installed.
        AlignError: Ollama failed; the message has its last line.
    """
    command = create_command(name)
    binary = shutil.which("ollama")
    if binary is None:
        raise UsageError("Ollama is not installed", hint=f"{_INSTALL} Then: {' '.join(command)}")
    done = subprocess.run([binary, *command[1:]], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise AlignError(
            f"ollama create failed: {said[-1].strip() if said else f'exit {done.returncode}'}",
            where=str(folder),
            hint="Is Ollama running? `ollama serve` starts it; the folder stays as it is.",
        )

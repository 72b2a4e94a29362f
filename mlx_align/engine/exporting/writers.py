"""What fills an export's folder: the writers of `mlx_align.export`, asked the way a job says."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_align.engine.exporting.options import Options
from mlx_align.engine.exporting.origin import Origin
from mlx_align.engine.exporting.readers import precision_of_folder, precision_of_gguf
from mlx_align.engine.tokenizer import load_tokenizer
from mlx_align.errors import UsageError
from mlx_align.export import ollama
from mlx_align.export.base import Base
from mlx_align.export.formats import fused, hf, mlx, peft
from mlx_align.export.gguf import adapter as gguf_adapter
from mlx_align.export.gguf import convert, graft, quantise
from mlx_align.hub import resolve_gguf


@dataclass(frozen=True)
class Job:
    """One export under way.

    Attributes:
        origin: what is exported.
        options: how.
        folder: an empty folder to write into.
        name: the name that a GGUF file will have, alone or in the folder.
    """

    origin: Origin
    options: Options
    folder: Path
    name: str

    @property
    def parts(self) -> tuple[Any, Any, Any]:
        """Adapter, base and provenance, which most writers ask for in this order."""
        return self.origin.adapter, self.origin.base, self.origin.provenance


@dataclass(frozen=True)
class Written:
    """What was written, and how it can be tried.

    Attributes:
        model: what is to be loaded, by its name in the folder; "." is the folder.
        loaders: the programs that can load it, the best first (see `readers`).
        precision: the coarsest type of its weights.
        worn: whether it is an adapter, which is loaded onto its base.
        notes: what a person should know about it.
    """

    model: str
    loaders: tuple[str, ...]
    precision: str
    worn: bool = False
    notes: tuple[str, ...] = ()


def write_mlx(job: Job) -> Written:
    """mlx-lm's adapter."""
    mlx.write(job.folder, *job.parts)
    return Written(".", ("mlx",), "f32", worn=True)


def write_peft(job: Job) -> Written:
    """PEFT's adapter."""
    return Written(".", ("peft",), "f32", worn=True, notes=peft.write(job.folder, *job.parts))


def write_hf(job: Job) -> Written:
    """The merged model in the Hugging Face layout."""
    dtype: Any = job.options.dtype
    notes = hf.write(job.folder, *job.parts, dtype)
    return Written(".", ("torch", "mlx"), precision_of_folder(Base.open(job.folder)), notes=notes)


def write_fused(job: Job) -> Written:
    """The merged model for mlx-lm."""
    options = job.options
    how: Any = options.quantization or ("again" if options.bits is not None else "kept")
    dtype: Any = options.dtype
    notes = fused.write(job.folder, *job.parts, how, options.bits, dtype)
    made = Base.open(job.folder)
    rounded = how == "again" and made.quantised
    precision = f"{made.config['quantization']['bits']}-bit" if rounded else precision_of_folder(made)
    return Written(".", ("mlx",), precision, notes=notes)


def write_gguf_adapter(job: Job) -> Written:
    """llama.cpp's adapter."""
    file = job.folder / job.name
    kind: Any = job.options.dtype or "f32"
    notes = gguf_adapter.write(file, *job.parts, kind)
    return Written(file.name, ("llama",), kind, worn=True, notes=tuple(notes))


def write_gguf(job: Job) -> Written:
    """The merged model for llama.cpp: by graft where a base GGUF is given, else from the base's weights."""
    file, wanted = job.folder / job.name, job.options.type
    adapter, base, provenance = job.parts
    natively = wanted is None or wanted in (*convert.FILE_TYPES, *graft.TYPES)
    first = file if natively else file.with_name(f"whole-{file.name}")
    if not natively:
        quantise.check(Path(f"{job.origin.name}-f16.gguf"), Path(file.name), str(wanted))
    if job.options.base_gguf is not None:
        source = resolve_gguf(job.options.base_gguf)
        notes = graft.write(first, adapter, base, source, provenance, wanted if natively else None)
    else:
        notes = convert.write(first, base, adapter, provenance, wanted or "f16" if natively else "f16")
    if not natively:
        quantise.quantise(first, file, str(wanted))
        first.unlink()
    return Written(file.name, ("llama",), precision_of_gguf(file), notes=tuple(notes))


def write_ollama(job: Job) -> Written:
    """A GGUF and its Modelfile."""
    if job.options.format == "gguf-adapter":
        written, model = write_gguf_adapter(job), _ollama_base(job)
        _modelfile(job, model, written.model)
    else:
        written = write_gguf(job)
        _modelfile(job, written.model)
    if job.options.name is None or ollama.installed():
        return written
    note = f"Ollama is not installed here, so '{job.options.name}' was not created in it"
    return replace(written, notes=(*written.notes, note))


def _ollama_base(job: Job) -> str:
    """A GGUF of the base in the folder, for an adapter beside it; its name."""
    if not ollama.accepts_adapter(ollama.version()):
        raise UsageError(
            "only older versions of Ollama take an adapter, and none is installed here",
            where="--format gguf-adapter",
            hint="Leave it out: the merged model works in every version.",
        )
    file = job.folder / f"{job.origin.name}-base.gguf"
    if job.options.base_gguf is not None:
        shutil.copyfile(resolve_gguf(job.options.base_gguf), file)
    else:
        convert.write(file, job.origin.base, None, job.origin.provenance, "f16")
    return file.name


def _modelfile(job: Job, model: str, adapter: str | None = None) -> None:
    template = job.options.template
    ollama.write(
        job.folder,
        model,
        load_tokenizer(job.origin.folder),
        job.origin.provenance,
        system=job.options.system,
        parameters=job.options.parameters,
        template=None if template is None else _text_of(Path(template)),
        adapter_gguf=adapter,
    )


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"it cannot be read: {error}", where=f"--template {file}") from None

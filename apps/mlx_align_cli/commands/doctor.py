"""`mlx-align doctor` and `version`: what this machine has and what it lacks."""

from __future__ import annotations

import json as jsonlib
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

import mlx_align
from mlx_align import installing
from mlx_align.errors import AlignError, UsageError
from mlx_align_cli import naming, options

LIBRARIES = ("mlx", "mlx-lm", "transformers", "huggingface-hub", "numpy", "safetensors")
INSTALL = f"{installing.command('cpu')} (Linux) or {installing.command()} (macOS on Apple silicon)"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `advice` says what to do where it is not "ok"."""

    name: str
    state: Literal["ok", "note", "missing"]
    value: str
    advice: str | None = None


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command(rich_help_panel="Setup")(doctor)
    app.command(rich_help_panel="Setup")(version)


def version() -> None:
    """Print the version."""
    print(mlx_align.__version__)


def print_version(wanted: bool) -> None:
    """Print the version and leave, as `--version` does."""
    if wanted:
        version()
        raise typer.Exit


def doctor(
    runs_dir: options.RunsDir = None,
    json: options.AsJson = False,
    selftest: Annotated[
        bool,
        typer.Option("--selftest", help="Compare this device with a CPU: a minute, and a table to paste."),
    ] = False,
    backend: Annotated[str | None, typer.Option(help="For --selftest: mlx or torch.")] = None,
    device: Annotated[str | None, typer.Option(help="For --selftest: auto, cpu, gpu, cuda or mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="For --selftest: float32 or bfloat16.")] = None,
) -> None:
    """Look at this machine: what is installed, which device there is, what is missing."""
    if selftest:
        from mlx_align_cli.commands.selftest import selftest as run_selftest

        raise typer.Exit(run_selftest(backend, device, dtype, json))
    if backend or device or dtype:
        raise UsageError(
            "--backend, --device and --dtype would be ignored", hint="They belong to doctor --selftest."
        )
    findings = examine(runs_dir)
    if json:
        print(jsonlib.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    raise typer.Exit(1 if any(finding.state == "missing" for finding in findings) else 0)


def _print(findings: list[Finding]) -> None:
    from rich.text import Text

    from mlx_align_cli.display.listing import print_table

    marks = {
        "ok": Text("✓", style="green"),
        "note": Text("!", style="yellow"),
        "missing": Text("✗", style="red"),
    }
    print_table(("", "what", "found"), [(marks[f.state], f.name, f.value) for f in findings])
    for finding in findings:
        if finding.advice:
            print(f"\n{finding.name}: {finding.advice}")


def examine(runs_dir: Path | None) -> list[Finding]:
    """Everything that is looked at."""
    return [
        Finding("mlx-align", "ok", mlx_align.__version__),
        Finding("python", "ok", f"{platform.python_version()} ({sys.executable})"),
        Finding("system", "ok", platform.platform()),
        Finding("memory", "ok", _memory()),
        *(_library(name) for name in LIBRARIES),
        *_backend(),
        *_torch(),
        *_macos(),
        _compiler(),
        _runs(runs_dir),
        Finding("hub cache", "ok", _hub_cache()),
    ]


def _memory() -> str:
    from mlx_align_cli.display.text import size

    return (
        f"{size(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))}, {os.cpu_count()} processor cores"
    )


def _library(name: str) -> Finding:
    try:
        return Finding(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", INSTALL)


def _backend() -> list[Finding]:
    from mlx_align import backends
    from mlx_align.config import BackendConfig

    try:
        backend = backends.create(BackendConfig())
        advice = backend.advice()
    except AlignError as error:
        return [Finding("device", "missing", error.message, error.hint or INSTALL)]
    except (ImportError, OSError, RuntimeError) as error:  # not installed, or its library does not load here
        return [Finding("device", "missing", f"mlx cannot be loaded: {error}", INSTALL)]
    found = [Finding("device", "ok", backend.device)]
    if platform.system() == "Linux":
        found.append(_openblas(advice))
    elif advice:
        found.append(Finding("speed", "note", "could be faster", advice))
    return found


def _torch() -> list[Finding]:
    """The other backend, which one can do without."""
    from mlx_align import backends
    from mlx_align.config import BackendConfig

    if find_spec("torch") is None or find_spec("peft") is None:
        advice = f"Only for --backend torch: {installing.command('torch')}"
        return [Finding("torch backend", "ok", f"not installed. {advice}")]
    libraries = [_library(name) for name in ("torch", "peft")]
    try:
        device = backends.create(BackendConfig(name="torch")).device
    except (AlignError, ImportError, OSError, RuntimeError) as error:
        return [*libraries, Finding("torch device", "note", f"cannot be used: {error}")]
    return [*libraries, Finding("torch device", "ok", device)]


def _openblas(advice: str | None) -> Finding:
    from ctypes.util import find_library

    library = find_library("openblas")
    return Finding("openblas", "note" if advice else "ok", library or "not found", advice)


def _macos() -> list[Finding]:
    if platform.system() != "Darwin":
        return []
    from mlx_align_cli.commands import macos

    return [
        Finding("wired limit", "ok", macos.wired_limit(), macos.WIRED_ADVICE),
        Finding("gpu watchdog", "note", "ends long GPU work", macos.WATCHDOG_ADVICE),
    ]


def _compiler() -> Finding:
    compiler = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if compiler:
        return Finding("c++ compiler", "ok", compiler)
    advice = "MLX compiles some steps on the CPU with it. Linux: install g++; macOS: xcode-select --install."
    return Finding("c++ compiler", "note", "not found", advice)


def _runs(runs_dir: Path | None) -> Finding:
    root = naming.runs_root(runs_dir).resolve()
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return Finding("runs folder", "ok", f"{root} (can be written)")
    except OSError as error:
        advice = "Choose another with --runs-dir or the key runs.dir, or mend its permissions."
        return Finding("runs folder", "missing", f"{root} cannot be written: {error.strerror}", advice)


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)

"""The peers' environments: which packages, and where they are installed.

    python -m tests.bench.peers.environments [NAME ...]

Ours and TRL run in the environment this is started from: the `dev` and `torch` extras pin torch and trl.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

MLX = ("mlx[cpu]==0.32.4", "mlx-lm==0.32.2") if sys.platform == "linux" else ("mlx==0.32.4", "mlx-lm==0.32.2")


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    `alone` are packages whose own requirements are left out: they ask for another platform's.
    """

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()


ENVIRONMENTS = {
    "mlx-lm-lora": Environment((*MLX, "datasets<5"), alone=("mlx-lm-lora==5.10.2",)),
    "unsloth": Environment(
        (*MLX, "mlx-vlm==0.7.10", "transformers<=5.17", "datasets<5"),
        alone=("unsloth_zoo==2026.10.9",),
    ),
}


def cache() -> Path:
    """Where environments and workloads are kept: MLX_ALIGN_BENCH_CACHE, or the user's cache folder."""
    chosen = os.environ.get("MLX_ALIGN_BENCH_CACHE")
    return Path(chosen) if chosen else user_cache_path("mlx-align") / "bench"


def python_of(name: str | None) -> Path:
    """The interpreter of an environment; None is this one."""
    return Path(sys.executable) if name is None else cache() / "environments" / name / "bin" / "python"


def make(name: str) -> None:
    """Install one environment, unless it has just these packages already."""
    environment, python = ENVIRONMENTS[name], python_of(name)
    installed = python.parent.parent / "installed.txt"
    if installed.exists() and installed.read_text(encoding="utf-8") == repr(environment):
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *environment.packages], check=True)
    if environment.alone:
        subprocess.run([*pip, "--no-deps", *environment.alone], check=True)
    installed.write_text(repr(environment), encoding="utf-8")


def main() -> None:
    """Install the environments named on the command line, or all."""
    for name in sys.argv[1:] or ENVIRONMENTS:
        print(f"{name}: {python_of(name).parent.parent}", file=sys.stderr)
        make(name)


if __name__ == "__main__":
    main()

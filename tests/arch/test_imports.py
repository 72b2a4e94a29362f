"""Who may import whom: the contracts of pyproject.toml, and what really gets loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

HEAVY = ["mlx", "mlx_lm", "torch", "peft", "transformers", "textual"]
SCREENS = ["typer", "rich", "textual"]


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in sys.modules after a statement, in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import mlx_align", [*HEAVY, *SCREENS, "numpy", "pydantic"]),
        ("import mlx_align.errors, mlx_align.run_state, mlx_align.config", [*HEAVY, *SCREENS, "numpy"]),
        ("import mlx_align.methods", [*HEAVY, *SCREENS, "numpy"]),
        ("import mlx_align.settings", [*HEAVY, *SCREENS, "numpy"]),
        ("import mlx_align.data, mlx_align.runs, mlx_align.evaluate", [*HEAVY, *SCREENS]),
        ("import mlx_align.api", [*HEAVY, *SCREENS]),
        ("import mlx_align.engine.trainer, mlx_align.engine.session", [*HEAVY, *SCREENS]),
        ("import mlx_align_cli.main", [*HEAVY, "numpy"]),
        ("import mlx_align.report", [*HEAVY, *SCREENS]),
        ("import mlx_align_tui.app", [name for name in HEAVY if name != "textual"]),
        ("import mlx_align.backends", [*HEAVY, *SCREENS]),
        ("import mlx_align.backends.torch", ["mlx", "mlx_lm", *SCREENS]),
    ],
)
def test_nothing_heavy_is_loaded(statement: str, forbidden: list[str]) -> None:
    assert loaded_by(statement).isdisjoint(forbidden)


TOKENIZER = """
from mlx_align import embedded
from mlx_align.engine.tokenizer import load_tokenizer, spare_torch
spare_torch("mlx")
import mlx_align.backends.mlx
load_tokenizer(embedded.model_folder())
"""


def test_a_run_on_mlx_leaves_torch_alone() -> None:
    """Without being asked to, transformers would load it; and who asks for it afterwards gets it."""
    assert {"mlx_lm", "transformers"} <= (loaded := loaded_by(TOKENIZER))
    assert "torch" not in loaded
    assert "torch" in loaded_by(f"{TOKENIZER}import torch")


def test_openblas_comes_before_mlx() -> None:
    """The order is what makes it fast; an mlx that is loaded first keeps the slow library in silence."""
    import mlx_align.backends.mlx as package

    source = Path(str(package.__file__)).read_text(encoding="utf-8")
    assert source.index("OPENBLAS = preload_openblas()") < source.index("import mlx.core")


def test_import_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    assert lint_imports(cache_dir=None, is_debug_mode=False, show_timings=False, verbose=False) == 0

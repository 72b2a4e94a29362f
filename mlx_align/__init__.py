"""mlx-align: local preference alignment for language models on Apple silicon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_align.errors import AlignError

if TYPE_CHECKING:
    from mlx_align.api import align, export_run, plan, resume, verify_export
    from mlx_align.runs import RunDirectory

__version__ = "0.1.0"
__all__ = [
    "AlignError", "RunDirectory", "__version__", "align", "export_run", "plan", "resume", "verify_export",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        from mlx_align import api

        return getattr(api, name)
    raise AttributeError(f"module 'mlx_align' has no attribute '{name}'")

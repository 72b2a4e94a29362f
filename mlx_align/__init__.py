"""mlx-align: local preference alignment for language models on Apple silicon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_align.errors import AlignError

if TYPE_CHECKING:
    from mlx_align.api import align, export_run, verify_export

__version__ = "0.1.0"
__all__ = ["AlignError", "__version__", "align", "export_run", "verify_export"]


def __getattr__(name: str) -> Any:
    if name in ("align", "export_run", "verify_export"):
        from mlx_align import api

        return getattr(api, name)
    raise AttributeError(f"module 'mlx_align' has no attribute '{name}'")

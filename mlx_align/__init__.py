"""mlx-align: local preference alignment for language models on Apple silicon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_align.errors import AlignError

if TYPE_CHECKING:
    from mlx_align.api import align

__version__ = "0.1.0"
__all__ = ["AlignError", "__version__", "align"]


def __getattr__(name: str) -> Any:
    if name == "align":
        from mlx_align.api import align

        return align
    raise AttributeError(f"module 'mlx_align' has no attribute '{name}'")

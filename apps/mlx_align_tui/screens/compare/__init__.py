"""Runs side by side: `screen`, what is read for it in `reading`, and its tables in `tables`."""

from mlx_align_tui.screens.compare.screen import CompareScreen

__all__ = ["CompareScreen"]

"""Export: an adapter goes where it is used, and is verified there."""

from mlx_align_tui.screens.export.screen import ExportScreen

__all__ = ["ExportScreen"]

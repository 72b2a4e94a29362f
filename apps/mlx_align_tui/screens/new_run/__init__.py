"""New run: from a model and data to a run that trains."""

from mlx_align_tui.screens.new_run.screen import NewRunScreen

__all__ = ["NewRunScreen"]

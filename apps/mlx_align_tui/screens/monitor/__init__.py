"""Monitor: one run, live."""

from mlx_align_tui.screens.monitor.screen import MonitorScreen

__all__ = ["MonitorScreen"]

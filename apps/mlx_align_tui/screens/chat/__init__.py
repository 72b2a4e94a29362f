"""Chat: the model before and after its run, side by side."""

from mlx_align_tui.screens.chat.screen import ChatScreen

__all__ = ["ChatScreen"]

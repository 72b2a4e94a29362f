"""An export as it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.widgets import Static

if TYPE_CHECKING:
    from mlx_align_tui.screens.export.jobs import Job


class ExportCard(Static, can_focus=True):
    """Shows a job.

    Args:
        job: what is done.
    """

    DEFAULT_CSS = """
    ExportCard { height: auto; margin: 0 1 1 1; padding: 0 1; border-left: outer $border-blurred; }
    ExportCard:focus { border-left: outer $primary; background: $surface; }
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def on_mount(self) -> None:
        """Show it."""
        self.show()

    def show(self) -> None:
        """Show how far it is now."""
        from mlx_align_tui.screens.export.jobs import shown

        self.update(shown(self.job, self.app.theme_variables))

"""A table of keys and values."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text
from textual.widgets import Static

from mlx_align_cli.display.text import clean


class Facts(Static):
    """Keys at the left, values at the right; a value that is too long ends in an ellipsis."""

    def show(self, rows: Sequence[tuple[str, str | Text]]) -> None:
        """Replace the content.

        Args:
            rows: key and value, as plain text; a value that is a `Text` keeps its colours.
        """
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
        style = self.app.theme_variables.get("quiet", "")
        for key, value in rows:
            table.add_row(Text(key, style=style), value if isinstance(value, Text) else Text(clean(value)))
        self.update(table)

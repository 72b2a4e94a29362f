"""The machine's display: every event as one JSON line on stdout."""

from __future__ import annotations

import sys

from mlx_align.events import Event
from mlx_align.run_state import RunState
from mlx_align_cli.display.base import Display


class JsonDisplay(Display):
    """Streams events as they come; notices go to stderr."""

    prints_adapter = False

    def show(self, event: Event, state: RunState) -> None:
        """Write one line."""
        sys.stdout.write(event.model_dump_json() + "\n")
        sys.stdout.flush()

    def notice(self, text: str) -> None:
        """Something this program has to say."""
        print(text, file=sys.stderr)

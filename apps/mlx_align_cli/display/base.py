"""What a display is; also the silent one."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from mlx_align.events import Event
from mlx_align.run_state import RunState

if TYPE_CHECKING:  # importing it would load numpy, and this module is loaded for `--help` too
    from mlx_align.runs import RunDirectory


class Display:
    """Shows one run while it is followed. This one shows nothing."""

    prints_adapter = True
    """Whether the adapter's path follows on stdout when the run has finished."""

    tells_adapter = False
    """Whether `end` says where the adapter is, so that a person need not be told again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begin(self, name: str, hint: str) -> None:
        """Which run is shown, and what Ctrl-C does to it; called once, before it is entered."""

    def show(self, event: Event, state: RunState) -> None:
        """One more event, and the state that includes it."""

    def notice(self, text: str) -> None:
        """Something this program, not the engine, has to say. Called from a signal handler as well."""

    def end(self, run: RunDirectory, state: RunState) -> None:
        """The run has ended as `state.end` says: show what it came to."""

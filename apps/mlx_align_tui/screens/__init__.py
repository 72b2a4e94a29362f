"""The screens, by name: one line here and one file beside this one make a screen."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mlx_align_tui.screens.base import AlignScreen

PACKAGE = "mlx_align_tui.screens"


@dataclass(frozen=True)
class Place:
    """A screen that one can go to.

    Args:
        title: what it is called in the command palette.
        about: one line on what it is for.
        screen: "module:Class" below this package; the module is loaded when it is gone to.
        needs: what its constructor takes: nothing, the run that is meant, or the runs that are marked.
    """

    title: str
    about: str
    screen: str
    needs: Literal["nothing", "run", "runs"] = "nothing"


PLACES: dict[str, Place] = {
    "home": Place("Runs", "All runs, live", "home:HomeScreen"),
    "new_run": Place("New run", "From a model and data to a run that trains", "new_run:NewRunScreen"),
    "data": Place("Data", "The rows as the model reads them, what is odd, and lengths", "data:DataScreen"),
    "monitor": Place("Monitor", "Curves, samples, log and alerts of a run", "monitor:MonitorScreen", "run"),
    "compare": Place("Compare", "Marked runs over each other", "compare:CompareScreen", "runs"),
    "chat": Place("Chat", "Before and after, side by side", "chat:ChatScreen", "run"),
    "export": Place("Export", "To where the model is used, and verified there", "export:ExportScreen", "run"),
    "doctor": Place("Doctor & settings", "This machine, colours, keys and paths", "doctor:DoctorScreen"),
}


def make(name: str, *arguments: Any) -> AlignScreen:
    """The screen of this name, made with these arguments."""
    module, _, kind = PLACES[name].screen.partition(":")
    screen: AlignScreen = getattr(import_module(f"{PACKAGE}.{module}"), kind)(*arguments)
    screen.address = name, arguments
    return screen

"""Choosing a file or a folder on this disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DirectoryTree, Input, Static

from mlx_align.paths import typed
from mlx_align_tui.keymap import UP_AND_DOWN, keyed

Wanted = Callable[[Path], bool]
"""Whether a path can be chosen; it raises nothing, whatever the system says of the path."""


class Tree(DirectoryTree):
    """Folders, and the files that are wanted.

    Args:
        root: where it begins.
        wanted: whether a file can be chosen.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("space", "screen.take", "Choose", id="picker.take")]

    def __init__(self, root: Path, wanted: Wanted) -> None:
        self._wanted = wanted
        super().__init__(root)

    def filter_paths(self, paths: Iterable[Path]) -> Iterable[Path]:
        """Without hidden ones, and without files that cannot be chosen."""
        shown = [path for path in paths if not path.name.startswith(".")]
        return [path for path in shown if os.path.isdir(path) or self._wanted(path)]


class PathPicker(ModalScreen[Path | None]):
    """Answers with the path that was chosen, None for none.

    Args:
        title: what is chosen.
        hint: what can be chosen, in one line.
        root: the folder to begin in.
        wanted: whether a path can be chosen; folders for which it is false are only opened.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close", id="picker.close"),
        Binding("backspace,minus", "up", "Folder above", id="picker.up"),
        *UP_AND_DOWN,
        Binding("l", "app.press('enter')", "Open", id="vim.right", show=False),
    ]

    def __init__(self, title: str, hint: str, root: Path, wanted: Wanted) -> None:
        super().__init__()
        self._title, self._hint, self._root, self._wanted = title, hint, root, wanted

    def compose(self) -> ComposeResult:
        """A path to type, and the tree."""
        with Vertical(classes="dialog picker") as frame:
            frame.border_title = self._title
            frame.border_subtitle = keyed(
                self, "enter open · <<picker.take>> choose · <<picker.up>> up · <<picker.close>> close"
            )
            yield Static(self._hint, classes="quiet")
            yield Input(str(self._root), compact=True, select_on_focus=False)
            yield Tree(self._root, self._wanted)

    def on_mount(self) -> None:
        """Begin in the tree."""
        self.query_one(Tree).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go to a folder that was typed, or choose a path."""
        event.stop()
        path = typed(event.value)
        if self._wanted(path):
            self.dismiss(path)
        elif os.path.isdir(path):
            self._go(path)
        else:
            self.notify("There is no such file or folder.", severity="warning")

    def on_directory_tree_file_selected(self, event: DirectoryTree.FileSelected) -> None:
        """Choose a file."""
        self.dismiss(event.path)

    def action_take(self) -> None:
        """Choose what is under the cursor."""
        node = self.query_one(Tree).cursor_node
        if node is None or node.data is None:
            return
        if self._wanted(node.data.path):
            self.dismiss(node.data.path)
        else:
            self.notify("That cannot be chosen; enter opens a folder.", severity="warning")

    def action_up(self) -> None:
        """Go to the folder above."""
        self._go(Path(self.query_one(Tree).path).resolve().parent)

    def _go(self, folder: Path) -> None:
        tree = self.query_one(Tree)
        tree.path = folder
        self.query_one(Input).value = str(folder)
        tree.focus()


# With os.path: where one may not look, and where a name is too long, it says no; the methods of Path raise.


def is_model(path: Path) -> bool:
    """Whether a path is a model's folder."""
    return os.path.isfile(path / "config.json")


def is_data(path: Path) -> bool:
    """Whether a path is a JSON lines file or a folder with one to train on."""
    return path.suffix == ".jsonl" if os.path.isfile(path) else os.path.isfile(path / "train.jsonl")


def is_python(path: Path) -> bool:
    """Whether a path is a Python file."""
    return path.suffix == ".py" and os.path.isfile(path)

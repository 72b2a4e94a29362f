"""Columns: which of a file's columns is the prompt, which the better answer, ..."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.widgets import Button, Static

from mlx_align.data.columns import OPTIONAL, WANTED, columns, copy_path, guess, missing, write_mapped
from mlx_align.data.sources import data_files
from mlx_align.errors import AlignError, DataError
from mlx_align.methods.base import RowKind
from mlx_align_cli.display.text import one_line
from mlx_align_tui.keymap import FIELDS
from mlx_align_tui.plain import plain
from mlx_align_tui.widgets.choice import Choice

NONE = "(none)"
ABOUT = (
    "Choose which column holds what. The file itself is never changed: a copy with our names is written "
    "beside it, and shown here."
)
FOLDER = "mapped"
"""Copies of several files go into a folder of this name."""


@dataclass(frozen=True)
class Columns:
    """The columns of the first of these files, each with its first value as text; others have the same."""

    files: tuple[Path, ...]
    values: dict[str, str]


def look(path: Path) -> Columns | AlignError:
    """The columns of the file that is trained on, or why they cannot be read; that may take a while.

    Args:
        path: a .jsonl file, or a folder with train.jsonl.
    """
    try:
        files = tuple(data_files(path))
        return Columns(files, columns(files[0]))
    except AlignError as error:
        return error


def target_of(files: Sequence[Path]) -> Path:
    """Where a copy goes: beside a file; of several, into a folder beside them. The name is not taken."""
    if len(files) == 1:
        return copy_path(files[0])
    numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    folders = (files[0].with_name(f"{FOLDER}{number}") for number in numbers)
    return next(folder for folder in folders if not os.path.lexists(folder))


def write_copy(files: Sequence[Path], mapping: dict[str, str], target: Path) -> int:
    """Write copies whose columns have our names, all of them or none.

    Args:
        files: a JSON lines file; or several, which go into one folder under the names that they have.
        mapping: our column -> the files'.
        target: from `target_of`.

    Returns:
        the number of rows.

    Raises:
        DataError: the target exists, or a row lacks one of the columns.
        OSError: the copies cannot be written.
    """
    if os.path.lexists(target):  # an empty folder would be replaced
        message = "there is a file or folder of this name already"
        raise DataError(message, where=str(target), hint="Move it away, or give it another name.")
    if len(files) == 1:
        return write_mapped(files[0], mapping, target)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as made:
        folder = Path(made, target.name)
        folder.mkdir()
        rows = sum(write_mapped(file, mapping, folder / file.name) for file in files)
        folder.rename(target)
    return rows


class Mapping(VerticalScroll, can_focus=False):
    """A line for each column that is wanted."""

    BINDINGS = FIELDS

    class Asked(Message):
        """A copy is to be written."""

        def __init__(self, files: tuple[Path, ...], mapping: dict[str, str], target: Path) -> None:
            super().__init__()
            self.files, self.mapping, self.target = files, mapping, target

    def __init__(self) -> None:
        super().__init__()
        self._choices: dict[str, Choice] = {}
        self._samples: dict[str, Static] = {}
        self._meant: dict[str, str] = {}

    async def offer(self, found: Columns | AlignError, kind: RowKind) -> None:
        """Replace the lines; say why if there is nothing to choose from.

        Args:
            found: what `look` has found.
            kind: what a row should be.
        """
        self._choices, self._samples, self._meant = {}, {}, {}
        await self.remove_children()
        if not self.is_attached:  # one has left meanwhile
            return
        if isinstance(found, AlignError):
            lines = [found.message, found.where or "", found.hint or ""]
            told = ["[$error]✘ the columns cannot be read[/]", *(plain(line) for line in lines if line)]
            self.mount(Static("\n".join(told)))
        else:
            self._list(found, kind)

    def _list(self, found: Columns, kind: RowKind) -> None:
        """Put the lines up, all at once and filled: whoever leaves then finds none of them half made."""
        self._files, self._kind, self._columns = found.files, kind, found.values
        self._meant = guess(kind, found.values)
        for name in WANTED[kind]:
            value = self._meant.get(name, NONE)
            self._choices[name] = Choice([NONE, *found.values], value, id=f"column-{name}")
            self._samples[name] = Static("", classes="sample")
        self._target = Static("", id="target")
        self._write = Button("Write the copy", id="write", variant="primary")
        self._show()
        names = " and ".join(file.name for file in found.files)
        head = Static(ABOUT, classes="quiet"), Static(plain(f"{names}\n"), id="file")
        self.mount(*head, *map(self._line, WANTED[kind]), self._target, self._write)

    def _line(self, name: str) -> Horizontal:
        title = f"{name}{' (optional)' if name in OPTIONAL[self._kind] else ''}"
        return Horizontal(
            Static(title, classes="name"), self._choices[name], self._samples[name], classes="column"
        )

    def compose(self) -> ComposeResult:
        """Empty until the file has been looked at."""
        yield Static("looking at the columns ...", classes="quiet", id="looking")

    @property
    def mapping(self) -> dict[str, str]:
        """Our column -> the file's, those that are chosen."""
        chosen = {name: choice.value for name, choice in self._choices.items()}
        return {name: column for name, column in chosen.items() if column != NONE}

    @property
    def begun(self) -> bool:
        """Whether other columns are chosen than those that were guessed."""
        return self.mapping != self._meant

    def on_choice_changed(self, event: Choice.Changed) -> None:
        """Show the values of the column that was chosen."""
        event.stop()
        self._show()

    def _show(self) -> None:
        mapping = self.mapping
        for name, sample in self._samples.items():
            value = self._columns.get(mapping.get(name, ""), "")
            sample.update(f"[$quiet]{plain(one_line(value, 200))}[/]")
        lacking = missing(self._kind, mapping)
        needless = all(ours == theirs for ours, theirs in mapping.items())
        twice = len({*mapping.values()}) < len(mapping)
        if lacking:
            text = f"[$warning]still to choose: {', '.join(lacking)}[/]"
        elif twice:
            text = "[$warning]one column cannot stand for two[/]"
        elif needless:
            text = "[$success]the columns have our names already: nothing needs to be written[/]"
        else:
            target = target_of(self._files)
            made = f"{target.name}/" if len(self._files) > 1 else target.name
            text = f"[$quiet]will be written:[/] {plain(made)}"
        self._target.update(f"\n{text}")
        self._write.disabled = bool(lacking) or twice or needless

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Ask for the copy."""
        event.stop()
        self.post_message(self.Asked(self._files, self.mapping, target_of(self._files)))

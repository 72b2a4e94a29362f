"""The pairs that are kept while one chats: data for orpo, dpo and simpo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlx_align.chat import Done, Turn


class Pairs:
    """A file of pairs. `look` and `keep` read and write it, so they belong in a thread.

    Args:
        file: a .jsonl file; it need not exist.

    Attributes:
        count: how many there are, as far as is known.
        busy: whether one is being kept; set and reset by who asks for it; the conversation waits for it.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.count, self.busy = file, 0, False

    def look(self) -> None:
        """Count them.

        Raises:
            OSError: the file cannot be read.
        """
        from mlx_align.preferences import count

        self.count = count(self.file)

    def keep(self, prompt: Sequence[Turn], better: Done, worse: Done) -> None:
        """Add a pair.

        Raises:
            AlignError: nothing can be learnt from it, or the disk is full.
        """
        from mlx_align.preferences import keep

        said = [turn.model_dump() for turn in prompt]
        self.count = keep(self.file, said, better.text, worse.text)

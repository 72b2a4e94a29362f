"""What this machine has and lacks, as `mlx-align doctor` says, in another process: it loads frameworks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mlx_align.errors import AlignError
from mlx_align_tui.live.programs import PROGRAM, Asking


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `state` is ok, note or missing, and `advice` says what to do then."""

    name: str
    state: str
    value: str
    advice: str | None = None


class Examination(Asking):
    """Examines this machine, once at a time.

    Args:
        root: the folder that holds the runs.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def ask(self) -> list[Finding]:
        """Look; it takes as long as a framework takes to load. Nothing if another `ask` or `close` came.

        Raises:
            AlignError: the process could not say what there is.
        """
        answer = self.answer(PROGRAM, ["doctor", "--json", "--runs-dir", str(self._root)])
        if answer is None:
            return []
        _, out, said = answer
        try:
            return [Finding(**found) for found in json.loads(out)]
        except (ValueError, TypeError):
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            raise AlignError(
                f"this machine could not be examined: {last[:200]}", hint="Try `mlx-align doctor`."
            ) from None

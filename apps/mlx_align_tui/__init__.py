"""The terminal UI: from data to a model in your chat app without leaving the terminal.

It is a guest: it reads run directories, starts and stops engine processes, and everything that it does can be
done without it. Neither it nor anything that it imports at the start loads mlx or torch.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path

COLLECTING = (100_000, 50, 100)
"""When Python looks for cycles: events by the hundred thousand are read, and none of them is in a cycle."""


def run(runs_dir: Path) -> int:
    """Show the terminal UI until the person leaves it.

    Args:
        runs_dir: the folder that holds the runs; it need not exist.

    Returns:
        the exit code of the program.
    """
    from mlx_align_cli.errors import tell
    from mlx_align_tui.app import AlignApp
    from mlx_align_tui.leaving import depart

    gc.set_threshold(*COLLECTING)
    app = AlignApp(runs_dir)
    app.run()
    if app.unsaved is not None:
        with suppress(OSError):  # the terminal may have been closed
            tell(app.unsaved)
    return depart(app.return_code or 0)

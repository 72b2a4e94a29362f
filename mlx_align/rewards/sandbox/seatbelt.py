"""The walls on macOS: sandbox-exec with a profile that denies whatever it does not name.

Not yet tried on a Mac: what is promised and tested is promised for Linux. Known to be weaker than there: no
namespaces (a program sees that other files exist, though it cannot read them), and macOS honours no limit of
memory. No file can be written, no process made, no network used; processor time, time by the clock and
output are limited.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from mlx_align.errors import SandboxMissingError
from mlx_align.rewards.sandbox.base import INSIDE, Limits, Walls, interpreter, library

_PROFILE = """
(version 1)
(deny default)
(import "system.sb")
(deny network*)
(deny process-fork)
(allow file-read-metadata)
(allow process-exec (literal (param "PYTHON")) (subpath (param "PREFIX")))
(allow file-read* (literal (param "PYTHON")) (subpath (param "PREFIX")) (subpath (param "INSIDE")))
(allow file-read* file-write-data (literal "/dev/null"))
"""


@contextmanager
def walls(limits: Limits) -> Iterator[Walls]:
    """The walls around one process; the limits are set from inside.

    Raises:
        SandboxMissingError: there is no sandbox-exec.
    """
    program = shutil.which("sandbox-exec")
    if program is None:
        raise SandboxMissingError(
            "the sandbox needs sandbox-exec, which this macOS does not have",
            hint="Leave the reward 'code' out.",
        )
    parameters = {"PYTHON": interpreter(), "PREFIX": library().parent, "INSIDE": INSIDE}
    defined = [part for name, value in parameters.items() for part in ("-D", f"{name}={value}")]
    yield Walls(command=[program, "-p", _PROFILE, *defined], folder=str(INSIDE.parent))

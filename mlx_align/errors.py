"""Every failure that a person can act on, as one small tree.

    AlignError                      exit 1   something failed
    ├── UsageError                  exit 2   the call is wrong: an unknown model, a missing run
    │   └── ConfigError             exit 2   a key or a value is wrong, or two of them conflict
    ├── DataError                   exit 3   a row, a file or a folder cannot be used
    ├── WontFitError                exit 4   the job needs more memory than there is
    ├── DivergedError               exit 5   too many updates in a row were not finite
    ├── DeviceAbortError            exit 6   the accelerator gave up (watchdog, out of memory)
    ├── SandboxMissingError         exit 1   strangers' code cannot be run safely here, so it is not run
    └── InterruptedRunError         exit 130 stopped on request; the run can be resumed

Each says what happened, where, and what to do next. Nothing else should reach a user: an exception
outside this tree is a bug and is reported as one, with the path of the log that has its traceback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar


class AlignError(Exception):
    """What happened, where it happened, and what to do next.

    Args:
        message: one sentence that says what happened.
        where: the place: "file:line", a row, a dotted config key; None when the message says it.
        hint: what to do next, as an instruction; None when the message makes it plain.

    Attributes:
        run: the `RunDirectory` that ended early, where `mlx_align.align` or `resume` says so; else None.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.run: Any = None  # runs are built on this module, which therefore does not know their type

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  {self.hint}" if self.hint else text


class UsageError(AlignError):
    """The call itself is wrong: an unknown model, a run that is not there, an impossible option."""

    exit_code = 2
    kind = "usage"


class ConfigError(UsageError):
    """A configuration key is unknown, a value is out of range, or two values conflict."""

    kind = "config"


class DataError(AlignError):
    """A data file or one of its rows cannot be used. `where` is "file:line" with the key when known."""

    exit_code = 3
    kind = "data"

    @classmethod
    def at(
        cls, path: Path | str, line: int | None, key: str | None, message: str, hint: str | None = None
    ) -> DataError:
        """A DataError whose `where` reads "file:line, key 'name'"."""
        where = f"{path}:{line}" if line is not None else str(path)
        if key is not None:
            where = f"{where}, key '{key}'"
        return cls(message, where=where, hint=hint)


class WontFitError(AlignError):
    """The job needs more memory than this machine can give."""

    exit_code = 4
    kind = "will-not-fit"


class DivergedError(AlignError):
    """Too many updates in a row had a non-finite loss or gradient; the last good checkpoint is intact."""

    exit_code = 5
    kind = "diverged"


class DeviceAbortError(AlignError):
    """The accelerator or the operating system ended the engine (watchdog, out of memory, a signal)."""

    exit_code = 6
    kind = "device-abort"


class SandboxMissingError(AlignError):
    """A stranger's program cannot be run safely: no sandbox is here, or the system forbids it to work."""

    kind = "sandbox-missing"


class InterruptedRunError(AlignError):
    """The run was stopped on request after saving a checkpoint; it can be resumed."""

    exit_code = 130
    kind = "interrupted"


def error_class(exit_code: int) -> type[AlignError]:
    """The class whose errors end a process with this code; AlignError for any other."""
    kinds = (UsageError, DataError, WontFitError, DivergedError, DeviceAbortError, InterruptedRunError)
    return next((kind for kind in kinds if kind.exit_code == exit_code), AlignError)


EXIT_CODES: dict[int, str] = {
    0: "success",
    1: "failed",
    2: "usage or configuration error",
    3: "data error",
    4: "will not fit in memory",
    5: "diverged",
    6: "device abort",
    130: "interrupted (a checkpoint was saved)",
}
"""The documented exit codes of every command."""

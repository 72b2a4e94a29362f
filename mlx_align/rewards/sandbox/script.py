"""A stranger's program as a script: text in, text out, nothing believed but the text."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import BinaryIO

from mlx_align.errors import SandboxMissingError
from mlx_align.rewards.base import RewardError
from mlx_align.rewards.sandbox import bubblewrap
from mlx_align.rewards.sandbox.base import Limits
from mlx_align.rewards.sandbox.process import launch, read_all


@dataclass(frozen=True)
class Outcome:
    """How a script ended.

    Attributes:
        stdout: what it printed, up to the limit.
        stderr: what it complained, up to the limit.
        code: its exit code, above 128 for a signal; None: it was ended when its time by the clock was up.
    """

    stdout: bytes
    stderr: bytes
    code: int | None


def run(source: str, stdin: bytes = b"", limits: Limits | None = None) -> Outcome:
    """Run a program as a script.

    Args:
        source: Python.
        stdin: what it can read.
        limits: what it may use; None: the usual limits.

    Raises:
        RewardError: the sandbox failed before the program was reached.
        SandboxMissingError: there is no sandbox on this system.
    """
    limits = limits or Limits()
    with _readable(stdin) as file:
        until = time.monotonic() + limits.wall_seconds
        with launch(
            "program", source, limits, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as sandboxed:
            process = sandboxed.process
            said = read_all(sandboxed.streams, limits.output, until)
            try:
                code = process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                code = None
            sandboxed.check_started(said["stderr"])
    return Outcome(said["stdout"], said["stderr"], code)


def _readable(content: bytes) -> BinaryIO:
    """A file without a name that can only be read, so that a program cannot fill the disk through it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return open(file.name, "rb")


@functools.cache
def require() -> None:
    """Make sure that programs can be run here, by running one; asked once in a process.

    Raises:
        SandboxMissingError: there is no sandbox, or it is not allowed to work; says what to do.
    """
    try:
        outcome = run("print(6 * 7)")
    except RewardError as error:
        hint = bubblewrap.FORBIDDEN if sys.platform == "linux" else "Leave the reward 'code' out."
        raise SandboxMissingError(f"the sandbox does not work here: {error}", hint=hint) from None
    if outcome.stdout != b"42\n":
        said = outcome.stderr.decode(errors="replace").strip()[-300:]
        message = f"the sandbox does not run Python: {said}"
        raise SandboxMissingError(message, hint="Please report this as a bug.")

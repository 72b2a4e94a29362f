"""A solution and its tests, in two sandboxes that talk: the one that answers and the one that judges."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from mlx_align.rewards.base import RewardError
from mlx_align.rewards.sandbox.base import Limits
from mlx_align.rewards.sandbox.process import launch, read_all


@dataclass(frozen=True)
class Verdict:
    """What came of one test.

    Attributes:
        kind: "unusable" where the test itself is at fault.
        reason: why it was not passed, in a line.
    """

    kind: Literal["passed", "failed", "unusable"]
    reason: str = ""


_LINE = 4096  # longest line about a test: 200 characters of reason, at most 12 bytes each in JSON

NOT_REACHED = Verdict("failed", "not reached: the time was up")


def examine(
    source: str,
    tests: Sequence[str],
    *,
    setup: str = "",
    entry_point: str | None = None,
    limits: Limits | None = None,
) -> list[Verdict]:
    """Test a solution.

    The tests run in their own process as if they stood below the solution. Values cross between the two as
    copies of plain data; other objects of the solution's can be called, read, indexed and iterated over from
    there. So a test cannot see an argument changed in place, nor give the solution a function.

    Args:
        source: the solution, Python; `__name__` is not "__main__" in it.
        tests: Python statements, usually asserts; they share one namespace.
        setup: statements before the first test.
        entry_point: a name of the solution's, for where the tests alone do not tell: a builtin's name.
        limits: what each side may use, for all tests together; None: the usual limits.

    Returns:
        one verdict a test, in their order.

    Raises:
        RewardError: the sandbox failed.
        SandboxMissingError: there is no sandbox on this system.
    """
    limits = limits or Limits()
    job = json.dumps({"setup": setup, "tests": list(tests), "entry_point": entry_point})
    with ExitStack() as stack:
        (asked, ask), (told, tell) = os.pipe(), os.pipe()
        with os.fdopen(asked), os.fdopen(ask, "w"), os.fdopen(told), os.fdopen(tell, "w"):
            until = time.monotonic() + limits.wall_seconds
            candidate = stack.enter_context(launch("candidate", source, limits, stdin=asked, stdout=tell))
            examiner = stack.enter_context(
                launch("examiner", job, limits, stdin=told, stdout=ask, stderr=subprocess.PIPE)
            )
        most = _LINE * (len(tests) + 1)
        said = read_all(examiner.streams, most, until)["stderr"]
        examiner.check_started(said)
        candidate.check_started(b"")
    return _verdicts(said, len(tests))


def _verdicts(said: bytes, count: int) -> list[Verdict]:
    try:
        verdicts = [Verdict(*json.loads(line)) for line in said.splitlines()]
    except (ValueError, TypeError):
        reason = said.decode(errors="replace").strip()[-200:]
        raise RewardError(f"the examination broke off: {reason}") from None
    return [*verdicts, *[NOT_REACHED] * (count - len(verdicts))]

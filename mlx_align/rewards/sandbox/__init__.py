"""Running strangers' Python programs: a language model's, which may do anything at all.

    base         limits and walls            bubblewrap, seatbelt   the walls of Linux and of macOS
    syscalls     what Linux refuses          process                start, read, end
    script       a program with stdin            examination            a solution with tests
    inside/      what runs in there: main sets limits; candidate and examiner talk over wire

A verdict cannot be forged, because whoever is examined never holds it. A script's output is compared out
here. A solution is asked by an examiner in another sandbox: it gets arguments and gives values, and the
comparison happens where its code never runs.

What is prevented: the network, any file beyond Python and the system's libraries, other processes, new ones,
more memory, time, threads, disk or output than the limits. What is not: a program may learn which Python and
which kernel this is, how long things take, and use what it is given in full; and a hole in the kernel is one.
Files in /tmp are limited in bytes, not in number: empty ones cost kernel memory until the time is up.
"""

from __future__ import annotations

from mlx_align.rewards.sandbox.base import Limits
from mlx_align.rewards.sandbox.examination import Verdict, examine
from mlx_align.rewards.sandbox.script import Outcome, require, run

__all__ = ["Limits", "Outcome", "Verdict", "examine", "require", "run"]

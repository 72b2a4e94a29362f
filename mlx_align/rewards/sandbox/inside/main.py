"""The first code inside the sandbox: sets the limits, says that it has, hands over to one of three roles."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys


def main() -> None:
    """One job, described by the only argument."""
    job = json.loads(sys.argv.pop())
    with os.fdopen(job["payload"], encoding="utf-8", errors="surrogatepass") as file:
        payload = file.read()
    role = importlib.import_module(f"{__package__}.{job['role']}")
    confine(job["limits"], job["uid"])
    with os.fdopen(job["started"], "wb") as started:  # closed again before any stranger's code is read
        started.write(b"1")
    role.main(payload)


def confine(limits: dict[str, int], uid: int | None) -> None:
    """Give up what can be given up, for good: hard limits, and the user where one is given.

    Args:
        limits: name in `resource` without "RLIMIT_" -> value.
        uid: the user and group to become; None where a user namespace has seen to it.
    """
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    for name, value in limits.items():  # after the change of user: processes are counted by user
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))

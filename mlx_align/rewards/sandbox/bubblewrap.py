"""The walls on Linux: bubblewrap's namespaces, an almost empty file system, and a filter of system calls.

Inside there is no network, no /proc, no home, no environment and no other process; one can read Python and
the system's shared libraries, and write to a small /tmp in memory. All is gone when the process ends, and it
ends with the process that started it.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_align.errors import SandboxMissingError
from mlx_align.rewards.sandbox.base import INSIDE, Limits, Walls, interpreter, library
from mlx_align.rewards.sandbox.syscalls import filter_program

INSTALL = "Install bubblewrap 0.7 or newer (`apt-get install bubblewrap`), or leave the reward 'code' out."

FORBIDDEN = (
    "bubblewrap needs user namespaces. Where Ubuntu's AppArmor forbids them: `sudo sysctl -w "
    "kernel.apparmor_restrict_unprivileged_userns=0`; elsewhere kernel.unprivileged_userns_clone=1 and "
    "user.max_user_namespaces above 0; a container must be started with --privileged or with "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined."
)
"""What to do where bubblewrap is there and is not allowed to work."""

ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOME": "/tmp",  # noqa: S108  (the sandbox's own)
    "LANG": "C.UTF-8",
    "PYTHONUTF8": "1",
    "PYTHONHASHSEED": "0",  # the order of a set must not change a reward from one run to the next
    "MALLOC_ARENA_MAX": "1",  # every other arena costs 64 MiB of address space
}

_FOLDER = "/sandbox"
_SCRATCH = "/tmp"  # noqa: S108  (the sandbox's own)
_SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/nix/store")
_DEVICES = ("/dev/null", "/dev/urandom")

# Users that no system hands out (systemd's documentation calls them unused). The kernel counts processes by
# user and does not count root's, so every sandbox that root starts gets one of its own.
_FIRST_UID, _UIDS = 0x70000000, 2**28
_turns = itertools.count()


@contextmanager
def walls(limits: Limits) -> Iterator[Walls]:
    """The walls around one process.

    Raises:
        SandboxMissingError: there is no bubblewrap, or this machine's system calls are not known.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxMissingError("the sandbox needs bubblewrap, which is not installed", hint=INSTALL)
    rules, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as pipe:  # a few hundred bytes: they fit before anyone reads
            pipe.write(filter_program())
        yield _around([program, "--seccomp", str(rules), *_namespaces(), *_files(limits)], rules)
    finally:
        os.close(rules)


def _around(command: list[str], rules: int) -> Walls:
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    uid = _FIRST_UID + (os.getpid() * 4096 + next(_turns)) % _UIDS if os.geteuid() == 0 else None
    return Walls(command=command, folder=_FOLDER, uid=uid, fds=(rules,))


def _namespaces() -> list[str]:
    if os.geteuid() == 0:  # a user namespace would leave the process root outside; it becomes another user
        user = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        user = ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    unshared = [f"--unshare-{kind}" for kind in ("ipc", "pid", "net", "uts", "cgroup-try")]
    return [*user, *unshared, "--hostname", "sandbox", "--die-with-parent", "--new-session", "--clearenv"]


def _files(limits: Limits) -> list[str]:
    """A read-only root that holds only what Python needs, and a small writable /tmp."""
    python = interpreter()
    seen = {str(path): str(path) for path in (*_SYSTEM, library(), python) if Path(path).exists()}
    seen[str(INSIDE)] = f"{_FOLDER}/{INSIDE.name}"
    parents = {parent for path in [*seen.values(), *_DEVICES] for parent in Path(path).parents}
    arguments: list[str] = []
    for parent in sorted(parents - {Path("/")}):  # else bubblewrap makes them for its own user only
        arguments += ["--perms", "0755", "--dir", str(parent)]
    for source, target in sorted(seen.items(), key=lambda pair: len(pair[1])):
        arguments += ["--ro-bind", source, target]
    for device in _DEVICES:
        arguments += ["--dev-bind", device, device]
    arguments += ["--perms", "1777", "--size", str(limits.scratch), "--tmpfs", _SCRATCH]
    return [*arguments, "--remount-ro", "/", "--chdir", _SCRATCH]

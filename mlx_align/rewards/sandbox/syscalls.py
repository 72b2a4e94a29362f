"""The system calls that no tested program needs, refused by the Linux kernel: a seccomp filter.

Namespaces hide things; this takes away the ways to make new processes, sockets and namespaces, to look into
other processes, to load code into the kernel, and to keep memory that no process limit counts. Refused calls
fail with "Operation not permitted" and the program goes on.
"""

from __future__ import annotations

import errno
import platform
import struct

from mlx_align.errors import SandboxMissingError

# linux/filter.h, linux/seccomp.h, linux/audit.h, linux/sched.h
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435

# name: (x86_64, aarch64); None where the architecture has no such call
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "socket": (41, 198),
    # looking into other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    # another view of the system
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "mknod": (133, None),
    "mknodat": (259, 33),
    # keys: the session's keyring is inherited
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # large or rarely used parts of the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    # memory outside the process's own
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "vmsplice": (278, 75),
}
"""What is refused, with its numbers in linux/unistd.h."""


def filter_program(machine: str | None = None) -> bytes:
    """The filter as the kernel wants it: an array of struct sock_filter.

    Args:
        machine: "x86_64" or "aarch64"; None: this machine.

    Raises:
        SandboxMissingError: the numbers of this machine's system calls are not known here.
    """
    machine = machine or platform.machine()
    if machine not in _AUDIT:
        raise SandboxMissingError(
            f"the sandbox does not know the system calls of {machine}",
            hint="Score code on x86-64 or arm64, or leave the reward 'code' out.",
        )
    column = list(_AUDIT).index(machine)
    numbers = [each[column] for each in REFUSED.values()]
    refused = [_when(_EQUAL, number, _FAIL | errno.EPERM) for number in numbers if number is not None]
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_when(_AT_LEAST, _X32, _FAIL | errno.EPERM),
        *(step for steps in refused for step in steps),
        # No filter can read clone3's flags. Libraries that are told that there is no clone3 use clone.
        *_when(_EQUAL, _CLONE3, _FAIL | errno.ENOSYS),
        (_EQUAL, 1, 0, _CLONE[machine]),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        *_when(_ANY_BIT, _CLONE_THREAD, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in program)


def _when(test: int, operand: int, result: int) -> list[tuple[int, int, int, int]]:
    return [(test, 0, 1, operand), (_RETURN, 0, 0, result)]

"""Attacks on the code sandbox. None may have an effect outside, none may earn credit, and life goes on after.

An attack is a script that prints "escaped", or the secret, if it believes that it has succeeded. What can be
seen from outside is looked at as well. Attacks that do no harm are also run without the sandbox, where they
must succeed: else they would prove nothing.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlx_align.rewards import sandbox
from mlx_align.rewards.base import Sampled
from mlx_align.rewards.code import CodeOptions, code

SECRET = "swordfish-7919"
ESCAPED = "escaped"
# The size of /tmp is seen in every command line inside; this process's own value marks what it has started.
MARK = 8 * 2**20 + os.getpid()
LIMITS = sandbox.Limits(cpu_seconds=1, wall_seconds=40, scratch=MARK)
SHORT = sandbox.Limits(cpu_seconds=1, wall_seconds=3, scratch=MARK)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the promises are made for Linux")


@pytest.fixture(scope="module", autouse=True)
def _sandbox() -> None:
    """On Linux a missing sandbox is a failure, never a skipped file."""
    sandbox.require()


class Host:
    """What an attack may be after, and ways to see whether it got there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = folder / "secret"
        self.secret.write_text(SECRET)
        self.witness = folder / "witness"
        self.leak = os.open(self.secret, os.O_RDONLY)
        os.set_inheritable(self.leak, True)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.path = socket.socket(socket.AF_UNIX)
        self.path.bind(str(folder / "s"))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0mlx-align-{os.getpid()}")
        for server in (self.path, self.abstract):
            server.listen()
        for door in self.doors:
            door.setblocking(False)
        self.victim = subprocess.Popen(["cat"], stdin=subprocess.PIPE)

    @property
    def doors(self) -> tuple[socket.socket, ...]:
        return self.tcp, self.udp, self.path, self.abstract

    def fill_in(self, source: str) -> str:
        names = {
            "SECRET_FILE": str(self.secret),
            "WITNESS": str(self.witness),
            "FOLDER": str(self.folder),
            "HOME": str(Path.home()),
            "TCP": self.tcp.getsockname()[1],
            "UDP": self.udp.getsockname()[1],
            "UNIX": str(self.folder / "s"),
            "ABSTRACT": f"\0mlx-align-{os.getpid()}",
            "VICTIM": self.victim.pid,
            "ENGINE": os.getpid(),
            "ESCAPED": ESCAPED,
        }
        return "".join(f"{name} = {value!r}\n" for name, value in names.items()) + textwrap.dedent(source)

    def effects(self) -> list[str]:
        """Everything that has happened out here."""
        seen = [str(path) for path in self.folder.iterdir() if path.name not in ("secret", "s")]
        for door in self.doors:
            try:
                seen.append(f"visited: {door.recv(9) if door is self.udp else door.accept()}")
            except BlockingIOError:
                continue
        if self.secret.read_text() != SECRET:
            seen.append("the secret was changed")
        if self.victim.poll() is not None:
            seen.append("the victim was killed")
        return seen

    def close(self) -> None:
        for door in self.doors:
            door.close()
        os.close(self.leak)
        self.victim.communicate(b"\n")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    folder = tmp_path / "host"
    folder.mkdir()
    made = Host(folder)
    yield made
    made.close()


def ours() -> list[int]:
    """The processes of this test's sandboxes."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_ours(pid)]


def _has_threads(pid: int) -> bool:
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def left_over() -> list[int]:
    """Those that are still there after a moment of grace: killed processes may take one to vanish."""
    until = time.monotonic() + 10
    while (found := ours()) and time.monotonic() < until:
        os.sched_yield()
    return found


def _is_ours(pid: int) -> bool:
    try:
        return pid != os.getpid() and f'"FSIZE": {MARK}' in Path(f"/proc/{pid}/cmdline").read_text(
            errors="replace"
        )
    except OSError:
        return False


@dataclass(frozen=True)
class Attack:
    """A script; `safe` where it may be run without the sandbox to see that it is one."""

    name: str
    source: str
    safe: bool = False
    limits: sandbox.Limits = LIMITS


def syscall(number: str, *arguments: str) -> str:
    """A script that makes a system call and calls success an escape. Numbers: x86-64, arm64."""
    return f"""
        import ctypes, platform
        libc = ctypes.CDLL(None, use_errno=True)
        number = dict(zip(("x86_64", "aarch64"), ({number})))[platform.machine()]
        if libc.syscall(number, {", ".join(arguments)}) >= 0:
            print(ESCAPED)
    """


def trying(body: str, imports: str = "import os, socket") -> str:
    """A script that calls it an escape if the body raises nothing."""
    return f"{imports}\n{textwrap.dedent(body).strip()}\nprint(ESCAPED)\n"


NETWORK = [
    Attack("tcp", trying("socket.create_connection(('127.0.0.1', TCP), 2)"), safe=True),
    Attack("tcp-send", trying("import urllib.request as u; u.urlopen('http://192.0.2.1/', timeout=2)")),
    Attack("udp", trying("socket.socket(2, 2).sendto(b'x', ('127.0.0.1', UDP))"), safe=True),
    Attack("dns", trying("socket.getaddrinfo('example.org', 80)")),
    Attack("unix-path", trying("socket.socket(1).connect(UNIX)"), safe=True),
    Attack("unix-abstract", trying("socket.socket(1).connect(ABSTRACT)"), safe=True),
    Attack("raw", trying("socket.socket(2, 3, 1)")),
    Attack("netlink", trying("socket.socket(16, 3, 0)")),
    Attack("vsock", trying("socket.socket(40, 1)")),
]

FILES = [
    Attack("secret", "print(open(SECRET_FILE).read())", safe=True),
    Attack("environment", "import os; print(os.environ['HF_TOKEN'])", safe=True),
    Attack("environ-of-engine", "print(open(f'/proc/{ENGINE}/environ').read())"),
    Attack("environ-of-init", trying("open('/proc/1/environ').read()")),
    Attack("own-memory-map", trying("open('/proc/self/maps').read()")),
    Attack("passwords", trying("open('/etc/passwd').read()"), safe=True),
    Attack("home", trying("assert len(os.listdir(HOME)) > 1")),
    Attack("symlink", trying("os.symlink(SECRET_FILE, '/tmp/l'); open('/tmp/l').read()")),
    Attack("hard-link", trying("os.link(SECRET_FILE, '/tmp/h')")),
    Attack("dots", "print(open('/tmp/../..' + SECRET_FILE).read())", safe=True),
    Attack("write-witness", trying("open(WITNESS, 'w').write('here')"), safe=True),
    Attack("make-witness", "import os\nos.makedirs(FOLDER)\nopen(WITNESS, 'w').write('here')"),
    Attack("write-root", trying("open('/witness', 'w')")),
    Attack("write-python", trying("open(os.__file__, 'a')")),
    Attack("write-inside", trying("import inside; open(inside.__file__, 'a')")),
    Attack("write-dev", trying("open('/dev/witness', 'w')")),
    Attack("shared-memory", trying("open('/dev/shm/witness', 'w')")),
    Attack(
        "disk",
        trying("[open(f'/dev/{d}', 'rb') for d in os.listdir('/dev') if d not in ('null', 'urandom')][0]"),
    ),
    Attack("make-device", trying("os.mknod('/tmp/d', 0o60666, os.makedev(254, 0))")),
    Attack(
        "descriptors",
        "import os\nfor fd in range(3, 1024):\n  try: print(os.pread(fd, 99, 0))\n  except OSError: pass",
    ),
    Attack(
        "descriptor-open",
        "import os\nfor fd in range(3, 64):\n  try: os.fstat(fd); print(ESCAPED)\n  except OSError: pass",
    ),
]

PROCESSES = [
    Attack("fork", trying("os.fork() or os._exit(0)")),
    Attack(
        "fork-bomb",
        "import os\nwhile True:\n  try: os.fork(); print(ESCAPED, flush=True)\n  except OSError: pass",
    ),
    Attack("spawn", trying("import subprocess; subprocess.run(['/bin/true'])")),
    Attack("posix-spawn", trying("import sys; os.posix_spawn(sys.executable, ['python'], {})")),
    Attack("daemon", trying("os.fork() and os._exit(0); os.setsid(); open(WITNESS, 'w')")),
    Attack(
        "thread-bomb",
        """
        import threading, time
        threading.stack_size(32768)
        for n in range(100):
            threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
        print(ESCAPED, flush=True)
        import os; os._exit(0)
    """,
        safe=True,
    ),
    Attack("kill-victim", trying("os.kill(VICTIM, 9)")),
    Attack("kill-engine", trying("os.kill(ENGINE, 18)"), safe=True),
    Attack("kill-all", "import os, signal\nos.kill(-1, signal.SIGTERM)\nos.kill(-1, 9)\nprint(ESCAPED)"),
    Attack("kill-init", trying("os.kill(1, 9); import time; time.sleep(60)"), limits=SHORT),
    Attack("nice", trying("os.nice(-5)")),
]

RESOURCES = [
    Attack("bytearray", trying("x = bytearray(2**30)")),
    Attack("mmap", trying("import mmap; mmap.mmap(-1, 2**30)"), safe=True),
    Attack("growing-list", "x = [0]\nwhile len(x) < 2**28: x = x + x\nprint(ESCAPED)"),
    Attack("fill-tmp", trying("for n in range(64): open(f'/tmp/{n}', 'wb').write(bytes(2**20))")),
    Attack("one-large-file", trying("f = open('/tmp/f', 'wb'); f.truncate(2**30)")),
    Attack("anonymous-file", trying("os.truncate(os.memfd_create('x'), 2**20)")),
    Attack("many-files", trying("x = [os.open('/dev/null', 0) for n in range(200)]"), safe=True),
    Attack("deep-recursion", "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()\nprint(ESCAPED)"),
    Attack("core-dump", trying("import resource; resource.setrlimit(resource.RLIMIT_CORE, (2**20, 2**20))")),
    Attack("raise-limits", trying("import resource as r; r.setrlimit(r.RLIMIT_CPU, (99, 99))")),
]

TIME = [
    Attack("busy", "while True: pass"),
    Attack("busy-in-c", "10 ** 10 ** 10\nprint(ESCAPED)"),
    Attack("busy-regex", "import re\nre.match('(a+)+$', 'a' * 99 + 'b')\nprint(ESCAPED)"),
    Attack(
        "ignores-signals",
        """
        import signal
        for number in set(range(1, 65)) - {9, 19, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        while True: pass
    """,
    ),
    Attack(
        "alarms",
        """
        import signal
        signal.signal(signal.SIGALRM, lambda *a: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while True: pass
    """,
    ),
    Attack("sleeps", "import time\ntime.sleep(60)\nprint(ESCAPED)", limits=SHORT),
    Attack("stops-itself", "import os\nos.kill(os.getpid(), 19)\nprint(ESCAPED)", limits=SHORT),
    Attack("quiet-sleeper", "import os, time\nos.close(1); os.close(2)\ntime.sleep(60)", limits=SHORT),
]

KERNEL = [
    Attack("unshare-user", syscall("272, 97", "0x10000000")),
    Attack("unshare-mounts", syscall("272, 97", "0x00020000")),
    Attack("clone-user", syscall("56, 220", "0x10000011", "0", "0", "0", "0")),
    Attack("clone3", syscall("435, 435", "0", "0")),
    Attack("remount", syscall("165, 40", "b'none'", "b'/'", "b''", "0x1020", "0")),
    Attack("mount-proc", syscall("165, 40", "b'proc'", "b'/tmp'", "b'proc'", "0", "0")),
    Attack("pivot-root", syscall("155, 41", "b'/tmp'", "b'/tmp'")),
    Attack("chroot", trying("os.chroot('/tmp')")),
    Attack("keyring", syscall("250, 219", "0", "-3", "0")),
    Attack("add-key", syscall("248, 217", "b'user'", "b'x'", "b'x'", "1", "-3")),
    Attack("ptrace-me", syscall("101, 117", "0", "0", "0", "0")),
    Attack("ptrace-init", syscall("101, 117", "16", "1", "0", "0")),
    Attack("read-memory", syscall("310, 270", "VICTIM", "0", "0", "0", "0", "0")),
    Attack("pidfd", syscall("434, 434", "1", "0")),
    Attack("bpf", syscall("321, 280", "0", "b'\\0' * 64", "64")),
    Attack("io-uring", syscall("425, 425", "8", "b'\\0' * 120")),
    Attack("performance-events", syscall("298, 241", "b'\\0' * 112", "0", "-1", "-1", "0")),
    Attack("shared-segment", syscall("29, 194", "0", "4096", "0o1600")),
    Attack("kernel-log", syscall("103, 116", "10", "0", "0")),
    Attack("become-root", trying("os.setuid(0)")),
    Attack("become-another", trying("os.setresuid(*[os.getuid() + 1] * 3)")),
    Attack("host-name", trying("socket.sethostname('mine')")),
    Attack("terminal", trying("import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x')")),
]

ATTACKS = [*NETWORK, *FILES, *PROCESSES, *RESOURCES, *TIME, *KERNEL]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_comes_to_nothing(attack: Attack, host: Host) -> None:
    outcome = sandbox.run(host.fill_in(attack.source), b"", attack.limits)
    assert not succeeded(outcome.stdout + outcome.stderr)
    assert attack not in TIME or outcome.code != 0
    assert host.effects() == []
    assert left_over() == []
    assert sandbox.run("print(int(input()) + 1)", b"41\n", LIMITS) == sandbox.Outcome(b"42\n", b"", 0)


@pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if attack.safe], ids=lambda attack: attack.name
)
def test_without_the_sandbox_it_would_succeed(attack: Attack, host: Host) -> None:
    done = subprocess.run(
        [sys.executable, "-c", host.fill_in(attack.source)], capture_output=True, timeout=60
    )
    assert succeeded(done.stdout)


def succeeded(said: bytes) -> bool:
    lines = said.decode(errors="replace").splitlines()
    return ESCAPED in lines or SECRET in lines


@pytest.mark.parametrize("descriptor", [1, 2])
def test_a_flood_of_output_is_cut_off(descriptor: int) -> None:
    outcome = sandbox.run(f"import os\nwhile True: os.write({descriptor}, b'x' * 65536)", b"", LIMITS)
    kept = (outcome.stdout, outcome.stderr)[descriptor - 1]
    assert kept == b"x" * LIMITS.output
    assert outcome.code != 0


def test_a_program_ends_with_the_engine_that_started_it() -> None:
    engine = f"""
        from mlx_align.rewards import sandbox
        limits = sandbox.Limits(wall_seconds=600, scratch={MARK})
        sleep = "threading.Thread(target=time.sleep, args=(600,)).start()"
        sandbox.run("import threading, time; " + sleep, b"", limits)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(engine)])
    until = time.monotonic() + 60
    while not (at_work := any(map(_has_threads, ours()))) and time.monotonic() < until:
        os.sched_yield()
    assert at_work
    process.kill()
    process.wait()
    assert left_over() == []


SOLVABLE = {"tests": ["assert product(6, 7) == 42", "assert abs(third() - 1 / 3) < 1e-9", "assert not lie()"]}
HONEST = "def product(a, b): return a * b\ndef third(): return 1 / 3\ndef lie(): return False"

# Each stands for `product`; what the right product is, only the examiner is told.
FORGERIES = {
    "exit": "import sys; sys.exit(0)",
    "hard-exit": "import os; os._exit(0)",
    "exit-when-called": "import os\ndef product(*a): os._exit(0)",
    "prints": "print('[\"passed\", \"\"]' * 3, flush=True)\ndef product(*a): print('passed')",
    "writes-everywhere": """
        import os
        for fd in range(1024):
            try: os.write(fd, b'["passed", ""]\\n' * 3)
            except OSError: pass
    """,
    "at-exit": 'import atexit, os\natexit.register(lambda: os.write(2, b\'["passed", ""]\\n\' * 3))',
    "finaliser": """
        import os
        class Last:
            def __del__(self): os.write(2, b'["passed", ""]\\n' * 3)
        def product(*a, last=Last()): raise SystemExit
    """,
    "equal-to-all": """
        class Same:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            __hash__ = None
        def product(*a): return Same()
    """,
    "integer-equal-to-all": """
        class Same(int):
            def __eq__(self, other): return True
        def product(*a): return Same(0)
    """,
    "equal-class": """
        class Meta(type):
            def __eq__(cls, other): return True
        class Same(metaclass=Meta): pass
        def product(*a): return Same
    """,
    "list-equal-to-all": """
        class Same(list):
            def __eq__(self, other): return True
        def product(*a): return Same()
    """,
    "patched-builtins": """
        import builtins, operator
        for name in ("isinstance", "bool", "abs", "len", "int", "print"):
            setattr(builtins, name, lambda *a: True)
        operator.eq = lambda *a: True
        abs = lambda x: 0
        def product(*a): return None
        def third(): return 9.0
    """,
    "patched-line": """
        import inside.wire as wire
        wire.encode = lambda value, refer: {"reference": 0}
        def product(*a): return 1
    """,
    "patched-json": "import json\njson.dumps = lambda *a: '{\"value\": true}'\ndef product(*a): return 1",
    "patched-examiner": """
        import inside.examiner as examiner
        examiner._judge = lambda *a: ("passed", "")
        def product(*a): return 1
    """,
    "reads-the-frames": """
        import gc, re, sys
        def product(*a):
            frame, seen = sys._getframe(), []
            while frame:
                seen.append(repr([frame.f_locals, frame.f_globals]))
                frame = frame.f_back
            found = re.search(r"product\\(6, 7\\) == (\\d+)", "".join(seen) + repr(gc.get_objects()))
            return int(found[1]) if found else None
    """,
    "reads-its-arguments": """
        import re, sys
        def product(*a):
            found = re.search(r"== (\\d+)", "".join(sys.orig_argv) + open(0).read())
            return int(found[1]) if found else None
    """,
    "answers-early": """
        import os
        for fd in range(3, 64):
            try: os.write(fd, b'{"value": true}\\n' * 9)
            except OSError: pass
    """,
    "answers-nonsense": """
        import os
        for fd in range(3, 64):
            try: os.write(fd, b'[' * 10**5 + b'\\n')
            except OSError: pass
    """,
    "answers-endlessly": """
        import os
        for fd in range(3, 64):
            try:
                while True: os.write(fd, b'{' * 65536)
            except OSError: pass
    """,
    "false-reference": """
        import os
        for fd in range(3, 64):
            try: os.write(fd, b'{"value": {"reference": "product"}}\\n')
            except OSError: pass
    """,
    "raises-skip": "import unittest\ndef product(*a): raise unittest.SkipTest",
    "raises-assertion": "def product(*a): raise AssertionError",
    "raises-stop": "def product(*a): raise StopIteration",
    "raises-exit": "def product(*a): raise SystemExit(0)",
    "raises-base": "def product(*a): raise type('passed', (BaseException,), {})",
    "not-implemented": "def product(*a): return NotImplemented",
    "not-a-number": "def product(*a): return float('nan')",
    "huge-answer": "def product(*a): return 'x' * 10**7",
    "deep-answer": "def product(*a):\n  x = []\n  for _ in range(10**5): x = [x]\n  return x",
    "endless-answer": "def product(*a):\n  while True: yield 42",
    "own-loop": "def product(*a):\n  x = []\n  x.append(x)\n  return x",
    "both-answers": "import os\ndef product(*a): return 42 if os.fork() else 41",
    "hangs": "def product(*a):\n  while True: pass",
    "syntax": "def product(:",
    "nothing": "",
}


@pytest.mark.parametrize("source", FORGERIES.values(), ids=FORGERIES)
def test_a_verdict_cannot_be_forged(source: str) -> None:
    assert credit(textwrap.dedent(source)) == 0
    assert left_over() == []


def test_an_honest_solution_gets_all_after_all_that() -> None:
    assert credit(HONEST) == 1


def test_one_forged_test_does_not_spoil_the_others() -> None:
    assert credit(f"{HONEST}\ndef product(*a): raise SystemExit(0)") == pytest.approx(2 / 3)


def credit(source: str) -> float:
    """The reward of a solution."""
    options = CodeOptions(cpu_seconds=LIMITS.cpu_seconds, wall_seconds=LIMITS.wall_seconds)
    return code(Sampled("", f"```python\n{source}\n```", None, SOLVABLE, 10, False), options)

"""The code sandbox with honest programs, and where it cannot work."""

from __future__ import annotations

import platform
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_align.errors import SandboxMissingError
from mlx_align.rewards import sandbox
from mlx_align.rewards.base import RewardError
from mlx_align.rewards.sandbox import bubblewrap, seatbelt, syscalls
from mlx_align.rewards.sandbox.inside import wire

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="not yet tried on a Mac")

SHAPES = """
from collections import Counter, deque, namedtuple
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

Point = namedtuple("Point", "x y")

@dataclass
class Account:
    balance: int = 0
    def add(self, amount):
        if amount < 0:
            raise ValueError("negative")
        self.balance += amount
        return self
    def __len__(self): return self.balance
    def __contains__(self, item): return item == self.balance
    def __getitem__(self, key): return [self.balance, key]
    def __str__(self): return f"balance {self.balance}"

class Overdrawn(KeyError): pass

def same(value): return value
def counted(n): yield from range(n)
def fails(): raise Overdrawn("x")
def sum(a, b): return a + b
"""


def passes(test: str, source: str = SHAPES, **options: Any) -> bool:
    [verdict] = sandbox.examine(source, [test], **options)
    assert verdict.kind != "unusable"
    return verdict.kind == "passed"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without bwrap and sandbox-exec, that has not been asked yet."""
    monkeypatch.setenv("PATH", "")
    sandbox.require.cache_clear()


def test_a_program_reads_and_prints() -> None:
    assert sandbox.run("print(input()[::-1])", "añb\n".encode()) == sandbox.Outcome("bña\n".encode(), b"", 0)


def test_what_a_program_reads_cannot_be_written() -> None:
    outcome = sandbox.run("import os\nos.write(0, b'x')", b"text")
    assert b"[Errno 9] Bad file descriptor" in outcome.stderr


def test_a_program_that_fails_says_why() -> None:
    outcome = sandbox.run("import sys\nraise SystemExit(7) if sys.stdin.read() else KeyError('k')")
    assert outcome.code == 1
    assert outcome.stderr.endswith(b"KeyError: 'k'\n")


def test_it_has_the_library_threads_and_a_place_to_write() -> None:
    source = """
import asyncio, concurrent.futures, ctypes, decimal, hashlib, pathlib, random, sqlite3, tempfile, zlib
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert sum(pool.map(abs, range(10))) == 45
asyncio.run(asyncio.sleep(0))
with tempfile.TemporaryFile() as file:
    file.write(b"x" * 10**6)
print("done")
"""
    assert sandbox.run(source) == sandbox.Outcome(b"done\n", b"", 0)


def test_the_same_program_prints_the_same_every_time() -> None:
    source = "print([hash(text) for text in 'abc'], list({'a', 'b', 'c', 'd', 'e'}))"
    assert sandbox.run(source) == sandbox.run(source)


VALUES = (
    "None True -3 10**5000 1.5 float('inf') 2j 'ä\\ud800' b'x' (1,) [[1],'2'] {1,(2,3)} frozenset({1}) "
    "{1:{'a':[]}} Decimal('0.1') Fraction(1,3) range(1,9,2) deque([1,2])"
)


def test_plain_values_cross_both_ways() -> None:
    setup = "from collections import deque\nfrom decimal import Decimal\nfrom fractions import Fraction"
    tests = [f"x = {value}; y = same(x); assert type(y) is type(x) and y == x" for value in VALUES.split()]
    verdicts = sandbox.examine(SHAPES, tests, setup=setup)
    assert [verdict.reason for verdict in verdicts if verdict.kind != "passed"] == []
    assert len(verdicts) == 18


@pytest.mark.parametrize(
    "test",
    [
        "a = Account(); a.add(2).add(3); assert a.balance == 5 and len(a) == 5 and 5 in a and 6 not in a",
        "a = Account(1); assert a is a.add(1) and a == a.add(1) and a != Account(3)",
        "a = Account(1); assert str(a) == 'balance 1' and a[2] == [1, 2] and repr(a) == 'Account(balance=1)'",
        "assert isinstance(Account(), Account) and not isinstance(3, Account)",
        "assert Account(1) and not Account()",
        "assert Point(1, 2) == (1, 2) and list(counted(3)) == [0, 1, 2] and next(counted(1)) == 0",
        "try:\n    Account().add(-1)\n    assert 0\nexcept ValueError as e:\n    assert str(e) == 'negative'",
        "try:\n    fails()\nexcept KeyError:\n    pass\nelse:\n    assert 0",
        "def check(f, n=3):\n    for i in range(n):\n        assert f(i) == i\ncheck(same)",
        "assert math.isclose(same(0.1) + same(0.2), 0.3) and sorted(same({2, 1})) == [1, 2]",
        "print('x'); import sys; sys.stderr.write('y'); assert same(1) == 1",
    ],
)
def test_what_tests_may_do_with_a_solution(test: str) -> None:
    assert passes(test)


@pytest.mark.parametrize(
    "test",
    [
        "assert same(1) == 2",
        "assert unknown(1)",
        "same(",
        "raise SystemExit(0)",
        "assert Account() == Account()",
    ],
)
def test_what_is_not_passed(test: str) -> None:
    [verdict] = sandbox.examine(SHAPES, [test])
    assert verdict.kind == ("unusable" if test == "same(" else "failed")
    assert verdict.reason


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("assert same(lambda: 1)", "the test hands over a function, which cannot leave its process"),
        ("import numpy", "the test imports 'numpy'; the sandbox has only Python's own library"),
        (
            "from solution import same",
            "the test imports 'solution'; the sandbox has only Python's own library",
        ),
    ],
)
def test_a_test_that_no_solution_could_pass(test: str, reason: str) -> None:
    assert sandbox.examine(SHAPES, [test]) == [sandbox.Verdict("unusable", reason)]


def test_a_solution_may_have_a_builtins_name() -> None:
    assert passes("assert sum(10, 15) == 25", entry_point="sum")
    assert not passes("assert sum(10, 15) == 25")


def test_tests_share_what_they_define_and_the_setup() -> None:
    verdicts = sandbox.examine(
        SHAPES, ["a = Account(start)", "a.add(1)", "assert a.balance == 5"], setup="start = 4"
    )
    assert [verdict.kind for verdict in verdicts] == ["passed"] * 3


def test_a_setup_that_fails_fails_every_test() -> None:
    verdicts = sandbox.examine("", ["assert True"] * 2, setup="a = Account()")
    assert [verdict.kind for verdict in verdicts] == ["failed"] * 2


def test_a_solution_that_hangs_fails_the_tests_that_come_after() -> None:
    limits = sandbox.Limits(wall_seconds=4)
    source = "import time\ndef f(x): time.sleep(x); return x"
    verdicts = sandbox.examine(
        source, ["assert f(0) == 0", "assert f(60)", "assert f(0) == 0"], limits=limits
    )
    assert [verdict.kind for verdict in verdicts] == ["passed", "failed", "failed"]
    assert "not reached" in verdicts[2].reason


def test_many_tests_with_long_reasons() -> None:
    verdicts = sandbox.examine(SHAPES, ["assert same(1) == 2, '\\U0001f600' * 999"] * 150)
    assert [len(verdict.reason) for verdict in verdicts] == [200] * 150


@pytest.mark.usefixtures("bare")
def test_without_bubblewrap_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(SandboxMissingError, match="apt-get install bubblewrap"):
        sandbox.require()


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("system", "message"), [("darwin", "sandbox-exec"), ("win32", "no sandbox for win32")]
)
def test_other_systems(system: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(SandboxMissingError, match=message):
        sandbox.require()


@pytest.mark.usefixtures("bare")
def test_forbidden_namespaces_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxMissingError, match="setting up uid map: Permission denied") as caught:
        sandbox.require()
    assert caught.value.hint == bubblewrap.FORBIDDEN
    with pytest.raises(RewardError, match="did not start"):  # later, it is one completion's failure
        sandbox.run("print(1)")


def test_the_profile_of_macos_denies_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sandbox-exec"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with seatbelt.walls(sandbox.Limits()) as walls:
        profile = walls.command[2].split("\n")
    assert walls.command[:2] == [str(program), "-p"]
    assert "(deny default)" in profile
    assert [line for line in profile if line.startswith("(allow") and "write" in line] == [
        '(allow file-read* file-write-data (literal "/dev/null"))'
    ]


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(SandboxMissingError, match="riscv64"):
        syscalls.filter_program("riscv64")


def evaluate(program: bytes, architecture: int, number: int, argument: int = 0) -> int:
    """What a filter returns: an interpreter of the five instructions that are used."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    steps = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        operation, yes, no, operand = steps[at]
        if operation == 0x06:
            return int(operand)
        if operation == 0x20:
            [accumulator] = struct.unpack_from("=I", data, operand)
            at += 1
            continue
        tests = {
            0x15: accumulator == operand,
            0x35: accumulator >= operand,
            0x45: bool(accumulator & operand),
        }
        at += 1 + (yes if tests[operation] else no)


ALLOWED, REFUSED, ABSENT, KILLED = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_of_system_calls(machine: str) -> None:
    program, own = syscalls.filter_program(machine), ARCHITECTURES[machine]
    column = list(ARCHITECTURES).index(machine)
    clone, write = {"x86_64": (56, 1), "aarch64": (220, 64)}[machine]
    refused = {numbers[column] for numbers in syscalls.REFUSED.values()} - {None}
    for number in range(500):
        expected = REFUSED if number in refused or number == clone else ABSENT if number == 435 else ALLOWED
        assert evaluate(program, own, number) == expected
    assert evaluate(program, own, clone, 0x3D0F00) == ALLOWED  # a thread, as glibc makes it
    assert evaluate(program, own, clone, 0x01200011) == REFUSED  # fork, as glibc makes it
    assert evaluate(program, own, 0x40000000 + write) == REFUSED  # x32
    assert evaluate(program, 0x40000003, write) == KILLED  # i386


@pytest.mark.skipif(
    not Path("/usr/include/asm-generic/unistd.h").exists(), reason="the kernel's headers are not installed"
)
def test_the_numbers_are_the_kernels() -> None:
    generic = _numbers(Path("/usr/include/asm-generic/unistd.h"))
    assert {name: numbers[1] for name, numbers in syscalls.REFUSED.items()} == {
        name: generic.get(name) for name in syscalls.REFUSED
    }
    if platform.machine() == "x86_64":
        [header] = Path("/usr/include").glob("**/asm/unistd_64.h")
        assert {name: numbers[0] for name, numbers in syscalls.REFUSED.items()} == {
            name: number for name, number in _numbers(header).items() if name in syscalls.REFUSED
        }


def _numbers(header: Path) -> dict[str, int]:
    words = [line.split() for line in header.read_text().splitlines()]
    return {
        word[1].removeprefix("__NR_"): int(word[2])
        for word in words
        if len(word) == 3 and word[0] == "#define" and word[1].startswith("__NR_") and word[2].isdigit()
    }


@pytest.mark.parametrize(
    "tree",
    [{"int": "x"}, {"set": [[]]}, {"no": 1}, {}, {"Fraction": ["0x1", "0x0"]}, {"dict": 3}, {"Decimal": "x"}],
)
def test_what_no_value_makes_is_refused(tree: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(tree, lambda reference: reference)

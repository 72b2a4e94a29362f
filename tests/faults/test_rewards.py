"""A person's reward that does everything wrong: its failure has a name, and the next batch is scored."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_align.rewards import Scored, Scorer, make_specs
from tests.conftest import ROOT
from tests.rewarded import sampled

REWARDS = '''\
import os, re, signal, sys, threading


def faulty(completion, *, prompt, answer, row, tokens, truncated):
    """Each completion names what goes wrong with it."""
    FAULTS.get(completion, lambda: None)()
    return {"nan": float("nan"), "inf": float("-inf"), "text": "0.5", "none": None, "list": [1.0],
            "complex": 1j, "huge": 10**400}.get(completion, len(completion))


def raises():
    raise KeyError("no such thing")


def hangs():
    while True:
        pass


def hangs_deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hangs()


def prints_a_gigabyte():
    for _ in range(1024):
        os.write(1, b"x" * (1 << 20))
    print("done", file=sys.stderr)


def replies_itself():
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b'{"id": 0, "value": 1000.0}\\n')
        except OSError:
            pass


def replies_without_end():
    for descriptor in range(3, 20):
        try:
            while True:
                os.write(descriptor, b"x" * 65536)
        except OSError:
            pass


def forks_and_hangs():
    if not os.fork():
        hangs()


def recurses():
    recurses()


class Unprintable(Exception):
    def __str__(self):
        raise ValueError


def raises_unprintable():
    raise Unprintable


def shouts():
    raise ValueError("x" * 1_000_000)


FAULTS = {
    "raise": raises, "unprintable": raises_unprintable, "shout": shouts, "exit": lambda: sys.exit(0),
    "die": lambda: os._exit(3), "kill": lambda: os.kill(os.getpid(), 9), "abort": os.abort, "hang": hangs,
    "hang-deaf": hangs_deaf, "hang-stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "gigabyte": prints_a_gigabyte, "stdin": lambda: os.close(0), "stdout": lambda: os.close(1),
    "descriptors": lambda: os.closerange(0, 64), "reply": replies_itself, "flood": replies_without_end,
    "fork": os.fork, "fork-hang": forks_and_hangs, "recurse": recurses,
    "memory": lambda: bytearray(64 << 30),
    "hang-regex": lambda: re.match("(a+)+$", "a" * 64 + "b"),
    "engine": lambda: open(f"/proc/{os.getppid()}/environ").read(),
    "home": lambda: (_ for _ in ()).throw(ValueError(repr(os.listdir(os.path.expanduser("~"))))),
    "environment": lambda: (_ for _ in ()).throw(ValueError(" ".join(sorted(os.environ)))),
}
'''

SECONDS = 3.0
"""What hanging is allowed; everything else gets MINUTES, for a machine that has much else to do."""
MINUTES = 300.0
FAILURES = {
    "raise": "KeyError: 'no such thing' (mine.py, line 12)",
    "unprintable": "Unprintable (mine.py, line 63)",
    "exit": "SystemExit: 0 (mine.py, line",
    "die": "its process ended with exit code 3",
    "kill": "its process was ended by SIGKILL",
    "abort": "its process was ended by SIGABRT",
    "hang": f"was not done after {SECONDS:g} seconds",
    "hang-deaf": f"was not done after {SECONDS:g} seconds",
    "hang-regex": f"was not done after {SECONDS:g} seconds",
    "hang-stopped": f"was not done after {SECONDS:g} seconds",
    "descriptors": "its process ",
    "reply": "what came back is not the reply",
    "flood": "its reply has no end",
    "recurse": "RecursionError: ",
    "memory": "MemoryError",
    "nan": "the value is nan",
    "inf": "the value is -inf",
    "text": "returned '0.5', a str and not a number",
    "none": "returned None, a NoneType and not a number",
    "list": "returned [1.0], a list and not a number",
    "complex": "returned 1j, a complex and not a number",
    "huge": "OverflowError: ",
}
HARMLESS = ("gigabyte", "stdin", "stdout", "fork", "fork-hang")
"""What must not even cost a value: requests and replies have pipes of their own."""


@pytest.fixture(scope="module")
def own_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(REWARDS, encoding="utf-8")
    return path


def scorer_of(file: Path, seconds: float) -> Scorer:
    return Scorer(make_specs([{"name": f"{file}:faulty", "timeout": seconds}, {"name": "numeric"}]))


@pytest.fixture(scope="module")
def scorer(own_file: Path) -> Iterator[Scorer]:
    with scorer_of(own_file, MINUTES) as made:
        yield made


@pytest.fixture(scope="module")
def hasty(own_file: Path) -> Iterator[Scorer]:
    with scorer_of(own_file, SECONDS) as made:
        yield made


def score(scorer: Scorer, *completions: str) -> Scored:
    return scorer.score([sampled(text, "5") for text in completions])


@pytest.mark.parametrize("fault", FAILURES)
def test_a_fault_has_a_name_and_the_next_batch_is_scored(scorer: Scorer, hasty: Scorer, fault: str) -> None:
    if fault == "memory" and sys.platform != "linux":
        pytest.skip("only Linux keeps the limit on memory")
    asked = hasty if fault.startswith("hang") else scorer
    scored = score(asked, "ab", fault)
    (failure,) = scored.failures
    assert (failure.reward, failure.index) == ("mine.py:faulty", 1)
    assert failure.message.startswith(FAILURES[fault])
    assert scored.values[0].tolist() == [2, 0]
    assert math.isnan(scored.values[1, 0])
    assert scored.values[1, 1] == 0  # the other reward has its value all the same
    assert math.isnan(scored.total[1])
    assert score(asked, "abc", "5").total.tolist() == [3, 2]


@pytest.mark.parametrize("habit", HARMLESS)
def test_a_bad_habit_costs_nothing(scorer: Scorer, habit: str) -> None:
    scored = score(scorer, "ab", habit, "abc")
    assert scored.failures == ()
    assert scored.values[:, 0].tolist() == [2, len(habit), 3]


def test_what_comes_after_a_hang_is_named_too(hasty: Scorer) -> None:
    scored = score(hasty, "ab", "hang", "abc")
    assert [failure.message for failure in scored.failures] == [
        f"was not done after {SECONDS:g} seconds",
        f"not reached: the {SECONDS:g} seconds of the batch were over",
    ]


def test_what_comes_after_a_death_is_scored(scorer: Scorer) -> None:
    assert score(scorer, "die", "ab", "die", "abc").values[[1, 3], 0].tolist() == [2, 3]


def test_one_that_only_dies_is_not_asked_without_end(scorer: Scorer) -> None:
    messages = [failure.message for failure in score(scorer, *["die"] * 8).failures]
    assert messages[:6] == ["its process ended with exit code 3"] * 6
    assert messages[6:] == ["not reached: its process was started again 5 times for this batch"] * 2
    assert score(scorer, "ab").failures == ()


def test_a_long_message_is_cut(scorer: Scorer) -> None:
    (failure,) = score(scorer, "shout").failures
    assert failure.message.startswith("ValueError: xxx")
    assert len(failure.message) <= 500


def test_a_long_completion_reaches_the_function(scorer: Scorer) -> None:
    assert score(scorer, "é\ud800\n" * 100_000).values[0, 0] == 300_000


def test_no_secret_is_in_its_environment(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with scorer_of(own_file, MINUTES) as scorer:
        (failure,) = score(scorer, "environment").failures
    seen = failure.message.removeprefix("ValueError: ").partition(" (")[0].split()
    assert set(seen) <= {"PATH", "LANG", "HOME", "LC_CTYPE", "__CF_USER_TEXT_ENCODING"}


def test_its_home_is_empty(scorer: Scorer) -> None:
    (failure,) = score(scorer, "home").failures
    assert failure.message.startswith("ValueError: [] (")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows another process's environment")
def test_the_engines_environment_cannot_be_read(scorer: Scorer) -> None:
    get_dumpable = 3
    assert ctypes.CDLL(None).prctl(get_dumpable, 0, 0, 0, 0) == 0
    if os.getuid():  # root may read all
        (failure,) = score(scorer, "engine").failures
        assert failure.message.startswith("PermissionError: ")


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/dev/fd"))


def test_a_process_that_cannot_be_started_again_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(REWARDS, encoding="utf-8")
    with scorer_of(folder / "mine.py", MINUTES) as scorer:
        score(scorer, "die")
        before = descriptors()
        folder.rename(tmp_path / "moved")
        (failure,) = score(scorer, "ab").failures
        assert failure.message.startswith("it could not be started again: its process could not be started: ")
        assert descriptors() == before
        (tmp_path / "moved").rename(folder)
        assert score(scorer, "ab").values[0, 0] == 2


@pytest.mark.parametrize("spare", range(5))
def test_too_few_descriptors_are_named(
    scorer: Scorer, spare: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far the start comes, what it has opened is closed, and its home removed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    score(scorer, "die")
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(spare)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held, default=3) + 1, limits[1]))
    try:
        for descriptor in held:
            os.close(descriptor)
        scored = score(scorer, "ab")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    (failure,) = scored.failures
    assert "could not be started: [Errno 24]" in failure.message
    assert descriptors() == before
    assert list(tmp_path.iterdir()) == []
    assert score(scorer, "ab").values[0, 0] == 2


def test_a_file_that_no_longer_loads_fails_every_completion_and_can_be_mended(
    scorer: Scorer, own_file: Path
) -> None:
    own_file.write_text("broken(", encoding="utf-8")
    scored = score(scorer, "die", "ab", "abc")
    own_file.write_text(REWARDS, encoding="utf-8")
    assert [failure.message.partition(":")[0] for failure in scored.failures] == [
        "its process ended with exit code 3",
        "it could not be started again",
        "it could not be started again",
    ]
    assert score(scorer, "ab").values[0, 0] == 2


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
HANGS = ["while True: pass", pytest.param("re.match('(a+)+$', 'a' * 64 + 'b')", marks=LINUX)]
"""In Python, and in C code that keeps the interpreter's lock."""


@pytest.mark.parametrize("hang", HANGS)
def test_an_engine_that_is_killed_leaves_no_process_behind(tmp_path: Path, hang: str) -> None:
    """The hanging function holds a FIFO open for writing; its end is the end of the process."""
    os.mkfifo(tmp_path / "alive")
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            f"""
            import re

            def hangs(completion, **rest):
                held = open({str(tmp_path / "alive")!r}, "w")
                held.write("here")
                held.flush()
                {hang}
            """
        ),
        encoding="utf-8",
    )
    engine = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from tests.rewarded import value; value(sys.argv[1], 'x', timeout=500)",
            f"{tmp_path}/mine.py:hangs",
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # the empty home is left behind
    )
    with (tmp_path / "alive").open() as alive:
        assert alive.read(4) == "here"
        engine.send_signal(signal.SIGKILL)
        engine.wait()
        assert select.select([alive], [], [], MINUTES)[0], "the process is still there"
        assert alive.read() == ""

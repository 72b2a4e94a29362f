"""The lock is the truth about liveness: held while its holder lives, free when it does not."""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_align.errors import UsageError
from mlx_align.runs import lock
from mlx_align.runs.lock import Holder, RunLock, holder, is_held, last_holder, this_boot
from tests import support


def enter(path: Path) -> None:
    with RunLock(path):
        pass


def test_it_is_held_inside_and_free_before_and_after(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    assert holder(path) is None
    assert not path.exists(), "asking must not make the file"
    with RunLock(path):
        assert is_held(path)
        assert holder(path) == Holder(os.getpid(), platform.node(), this_boot())
    assert not is_held(path)
    assert holder(path) is None, "the number in the file is of a process that has let go"


def test_a_second_holder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my-run" / "lock"
    path.parent.mkdir()
    with RunLock(path):
        with pytest.raises(UsageError, match="already working on the run 'my-run'") as caught:
            enter(path)
        assert caught.value.hint is not None
        assert holder(path) == Holder(os.getpid(), platform.node(), this_boot())
        assert is_held(path), "the refused one must not have freed it"


def test_an_error_inside_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), RunLock(path):
        1 / 0  # noqa: B018
    enter(path)


def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with support.lock_holder(path) as process:
        assert holder(path) == Holder(process.pid, platform.node(), this_boot())
        with pytest.raises(UsageError):
            enter(path)
        process.kill()
        process.wait()
        assert not is_held(path)
        assert holder(path) is None
        enter(path)


def test_a_reader_that_asks_does_not_keep_an_engine_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`is_held` takes a shared lock for an instant; an engine that starts in that instant must not fail."""
    path = tmp_path / "lock"
    path.touch()
    reader = os.open(path, os.O_RDWR)
    fcntl.flock(reader, fcntl.LOCK_SH)
    flock, tries = fcntl.flock, [0]

    def watched(descriptor: int, operation: int) -> None:
        tries[0] += 1
        if tries[0] == 4:  # some tries later the reader has its answer
            flock(reader, fcntl.LOCK_UN)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", watched)
    try:
        enter(path)
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("words", "told", "here"),
    [
        ("4711\n", Holder(4711, ""), False),
        ("4711 elsewhere\n", Holder(4711, "elsewhere"), False),
        (f"4711 {platform.node()}\n", Holder(4711, platform.node()), True),
    ],
)
def test_a_lock_of_an_earlier_version_is_read(tmp_path: Path, words: str, told: Holder, here: bool) -> None:
    path = tmp_path / "lock"
    with RunLock(path):
        path.write_text(words)
        assert holder(path) == told
        assert told.is_here() is here


def test_a_machine_is_known_by_its_start_and_not_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS the name is "MacBook.local" at home, and "macbook.lan" elsewhere."""
    assert this_boot()
    path = tmp_path / "lock"
    with RunLock(path):
        held = holder(path)
        assert held is not None
        monkeypatch.setattr(platform, "node", lambda: "macbook.lan")
        assert held.is_here()
        assert not held._replace(host="macbook.lan", boot="that of another").is_here()
        monkeypatch.setattr(lock, "BOOT_ID", tmp_path / "none")
        monkeypatch.setattr(lock, "BOOT_COMMAND", ("/none/sysctl",))
        assert this_boot() == ""
        assert not held.is_here(), "then there is only the name"
        assert held._replace(host="macbook.lan").is_here()


def test_containers_on_one_machine_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process id of one is another process, or none, in the other."""
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / "boot_id").write_text("1c3c2b8e\n")
    monkeypatch.setattr(lock, "BOOT_ID", tmp_path / "boot_id")
    seen = set()
    for name in ("pid:[1]", "pid:[2]"):
        (tmp_path / name).symlink_to(name)
        monkeypatch.setattr(lock, "PROCESS_IDS", tmp_path / name)
        seen.add(this_boot())
    assert seen == {"1c3c2b8e pid:[1]", "1c3c2b8e pid:[2]"}


def test_reading_a_lock_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal UI reads those of all runs, again and again."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(lock, "BOOT_COMMAND", ("/bin/echo", "9A1F"))
    path = tmp_path / "lock"
    with RunLock(path):
        monkeypatch.setattr(subprocess, "Popen", None)
        assert holder(path) == last_holder(path) == Holder(os.getpid(), platform.node(), "9A1F")


def test_a_holder_whose_number_cannot_be_read_is_still_a_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with RunLock(path):
        path.write_text("?")
        assert is_held(path)
        assert holder(path) is None

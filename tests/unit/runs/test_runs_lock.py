"""The lock is the truth about liveness: held while its holder lives, free when it does not."""

from __future__ import annotations

import fcntl
import os
import platform
from pathlib import Path

import pytest

from mlx_align.errors import UsageError
from mlx_align.runs.lock import Holder, RunLock, holder, is_held
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
        assert holder(path) == Holder(os.getpid(), platform.node())
    assert not is_held(path)
    assert holder(path) is None, "the number in the file is of a process that has let go"


def test_a_second_holder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my-run" / "lock"
    path.parent.mkdir()
    with RunLock(path):
        with pytest.raises(UsageError, match="already working on the run 'my-run'") as caught:
            enter(path)
        assert caught.value.hint is not None
        assert holder(path) == Holder(os.getpid(), platform.node())
        assert is_held(path), "the refused one must not have freed it"


def test_an_error_inside_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), RunLock(path):
        1 / 0  # noqa: B018
    enter(path)


def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with support.lock_holder(path) as process:
        assert holder(path) == Holder(process.pid, platform.node())
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


def test_a_lock_of_an_earlier_version_names_no_machine(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with RunLock(path):
        path.write_text("4711\n")
        assert holder(path) == Holder(4711, "")


def test_a_holder_whose_number_cannot_be_read_is_still_a_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with RunLock(path):
        path.write_text("?")
        assert is_held(path)
        assert holder(path) is None

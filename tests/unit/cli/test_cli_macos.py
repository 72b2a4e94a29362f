"""What doctor says on a Mac; the commands are answered by a stand-in."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from mlx_align_cli.commands import doctor, macos


@pytest.mark.parametrize(
    ("said", "code", "limit"),
    [
        ("0\n", 0, "the system's default"),
        ("98304\n", 0, "98,304 MB"),
        ("", 1, "unknown"),
        ("?", 0, "unknown"),
    ],
)
def test_wired_limit(said: str, code: int, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[-1] == "iogpu.wired_limit_mb"
        return subprocess.CompletedProcess(command, code, said, "")

    monkeypatch.setattr(subprocess, "run", answer)
    assert macos.wired_limit() == limit


def test_no_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*anything: Any, **options: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert macos.wired_limit() == "unknown"


def test_doctor_speaks_of_it_on_a_mac_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not doctor._macos()
    monkeypatch.setattr(doctor.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(macos, "wired_limit", lambda: "96,000 MB")
    limit, watchdog = doctor._macos()
    assert limit.value == "96,000 MB"
    assert "caffeinate" in str(watchdog.advice)

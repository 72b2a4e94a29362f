"""An export that is ended from outside leaves nothing half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.trained import trained_run


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_ended_export_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    run = trained_run(tmp_path / "runs")
    exports = run.path / "exports"
    command = [sys.executable, "-m", "mlx_align_cli.main", "export", str(run.path), "--to", "hf"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        until = time.monotonic() + 60
        while not (exports.is_dir() and any(exports.iterdir())) and time.monotonic() < until:
            time.sleep(0.002)
        assert any(exports.iterdir()), "it is being written"
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
        said = process.stderr.read()
    assert "Traceback" not in said
    assert not exports.exists()

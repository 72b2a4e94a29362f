"""What a Mac owner should know before a long run: the wired-memory limit and the GPU watchdog."""

from __future__ import annotations

import subprocess

WIRED_KEY = "iogpu.wired_limit_mb"
WIRED_ADVICE = (
    "mlx-align leaves this limit as it is, because raising it has ended in kernel panics (mlx issue 3186). "
    f"If a model almost fits, `sudo sysctl {WIRED_KEY}=N` raises it until the next start, at your risk."
)
WATCHDOG_ADVICE = (
    "macOS ends GPU work that takes too long while a display is on; the run then ends with exit code 6 "
    "and can be resumed. Use shorter sequences (data.max_length), let the display sleep and run under "
    "`caffeinate -i`. As a last resort set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1 (mlx issue 3267)."
)


def wired_limit() -> str:
    """The limit on memory the GPU may hold, as sysctl tells it."""
    command = ["/usr/sbin/sysctl", "-n", WIRED_KEY]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    value = done.stdout.strip()
    if done.returncode or not value.isdigit():
        return "unknown"
    return "the system's default" if value == "0" else f"{int(value):,} MB"

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """An engine in this process takes over two signals; give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def brief() -> dict[str, Any]:
    """Settings for the shortest run that still evaluates and saves, for `support.new_run`."""
    return {
        "train__steps": 2,
        "eval__rows": 2,
        "eval__samples": 0,
        "eval__every": 0,
        "adapter__modules": ["self_attn.q_proj", "self_attn.v_proj"],
    }

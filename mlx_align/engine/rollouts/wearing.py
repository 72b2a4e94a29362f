"""A policy with another adapter for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlx_align.backends.base import Policy, State


@contextmanager
def wearing(policy: Policy, adapter: State) -> Iterator[None]:
    """As long as this lasts the policy has these arrays; then its own again, bit for bit."""
    own = policy.adapter_state()
    policy.load_adapter_state(adapter)
    try:
        yield
    finally:
        policy.load_adapter_state(own)

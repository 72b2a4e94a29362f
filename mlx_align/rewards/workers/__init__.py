"""Rewards that run in a process of their own: a person's file, and a library that can be kept busy."""

from __future__ import annotations

from mlx_align.rewards.workers.worker import Limits, Worker

__all__ = ["Limits", "Worker"]

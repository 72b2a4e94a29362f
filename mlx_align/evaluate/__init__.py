"""Measures over held-out rows that no loss computes."""

from mlx_align.evaluate.answers import nearer_to_chosen
from mlx_align.evaluate.divergence import kl_estimate

__all__ = ["kl_estimate", "nearer_to_chosen"]

"""Exports: an adapter goes where it will be used, and is tried there before it is called done."""

from mlx_align.engine.exporting.again import verify_again
from mlx_align.engine.exporting.exporter import Exported, Exporter, Progress
from mlx_align.engine.exporting.options import Options
from mlx_align.engine.exporting.quantisations import Choice, choices
from mlx_align.engine.exporting.targets import TARGETS, Target
from mlx_align.engine.exporting.verification import Verification

__all__ = [
    "TARGETS", "Choice", "Exported", "Exporter", "Options", "Progress", "Target", "Verification", "choices",
    "verify_again",
]  # fmt: skip

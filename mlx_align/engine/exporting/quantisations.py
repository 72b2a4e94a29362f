"""What each way of treating an MLX base's quantisation costs: written, measured and thrown away."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_align.engine.exporting.exporter import Exporter
from mlx_align.engine.exporting.options import Options
from mlx_align.engine.exporting.placing import size_of
from mlx_align.engine.exporting.readers import Unread
from mlx_align.engine.exporting.targets import TARGETS
from mlx_align.engine.exporting.verification import measure
from mlx_align.engine.exporting.writers import Job
from mlx_align.errors import AlignError
from mlx_align.export.comparing import Comparison, Verdict


@dataclass(frozen=True)
class Choice:
    """One way.

    Attributes:
        quantization: "kept", "none" or "again".
        bits: of the new quantisation; None: each module's own, or none.
        size: bytes on the disk.
        comparison: the figures.
        verdict: what they mean.
    """

    quantization: str
    bits: int | None
    size: int
    comparison: Comparison
    verdict: Verdict


def choices(exporter: Exporter, options: Options) -> Iterator[Choice]:
    """Measure `mlx-fused` in every way that this base allows, one after the other.

    Args:
        exporter: of the adapter.
        options: `bits` and `dtype` are used; bases without quantisation are quantised to 8 and 4 bits.

    Raises:
        AlignError: mlx-lm is not installed, or refuses what was written.
    """
    quantised = exporter.origin.base.quantised
    ways: list[tuple[str, int | None]] = [("kept", None)] if quantised else []
    ways.append(("none", None))
    ways += [("again", options.bits)] if quantised or options.bits else [("again", 8), ("again", 4)]
    for quantization, bits in ways:
        yield _measured(exporter, replace(options, quantization=quantization, bits=bits))


def _measured(exporter: Exporter, options: Options) -> Choice:
    root = exporter.origin.run.path
    with tempfile.TemporaryDirectory(dir=root, prefix=".compare-") as name:
        folder = Path(name)
        written = TARGETS["mlx-fused"].write(Job(exporter.origin, options, folder, ""))
        found = measure(folder, written, exporter.evidence, exporter.surroundings())
        if isinstance(found, Unread):
            raise AlignError(f"nothing can be measured: {found.reason}", hint=found.hint)
        comparison, verdict = found
        return Choice(str(options.quantization), options.bits, size_of(folder), comparison, verdict)

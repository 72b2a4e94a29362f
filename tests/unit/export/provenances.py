"""A provenance for exports in tests; apart, because nothing else need be loaded for it."""

from __future__ import annotations

from mlx_align.export.provenance import Provenance

PROVENANCE = Provenance("run", "orpo", "base", None, "b" * 64, "a" * 64, "d" * 64, 10, "[train]")

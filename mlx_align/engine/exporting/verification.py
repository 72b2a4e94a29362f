"""Loading an export with the program that will use it, and comparing it with what was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_align.engine.exporting.readers import Surroundings, Unread, obstacle, opened, otherwise
from mlx_align.engine.exporting.writers import Written
from mlx_align.errors import AlignError
from mlx_align.export.comparing import Comparison, Verdict, coarser, compare, judge
from mlx_align.export.evidence import Evidence


@dataclass(frozen=True)
class Verification:
    """What came of a verification.

    Attributes:
        comparison: the figures; None if it was not verified.
        reason: why it was not verified.
        hint: what to do so that it can be.
        warnings: what a person should know although it is right.
    """

    comparison: Comparison | None
    reason: str | None = None
    hint: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether it was."""
        return self.comparison is not None

    def json(self) -> dict[str, Any]:
        """As values that JSON has."""
        figures = None if self.comparison is None else self.comparison.json()
        return {
            "verified": self.verified, "figures": figures, "reason": self.reason,
            "warnings": list(self.warnings),
        }  # fmt: skip

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Verification:
        """Read back what `json` wrote; the hint, which was for then, is not in it.

        Raises:
            KeyError, TypeError: it is damaged.
        """
        figures = facts["figures"]
        comparison = None if figures is None else Comparison.from_json(figures)
        return cls(comparison, facts["reason"], warnings=tuple(facts["warnings"]))

    def line(self) -> str:
        """One line for a person."""
        if self.comparison is None:
            return f"not verified: {self.reason}"
        return f"verified by {self.comparison.loader}: {self.comparison.figures()}"


def unasked(folder: Path, written: Written, around: Surroundings) -> Verification:
    """What is known of an export that was not to be verified; the arguments are those of `measure`."""
    return Verification(None, "--no-verify was given", warnings=_cautions(folder, written, around))


def measure(
    folder: Path, written: Written, evidence: Evidence, around: Surroundings
) -> tuple[Comparison, Verdict] | Unread:
    """The figures of an export and what they mean, or why there are none.

    Args:
        folder: where it lies.
        written: how it is loaded.
        evidence: what it is measured by.
        around: what it is loaded with.

    Raises:
        AlignError: the program refuses it.
    """
    loader = obstacle(written.loaders, written.worn, around)
    if isinstance(loader, Unread):
        return loader
    longest = max(map(len, evidence.contexts))
    with opened(loader, folder / written.model, written.worn, around, longest) as (reader, precision):
        comparison = compare(evidence, reader)
    return comparison, judge(comparison, coarser(evidence.precision, written.precision, precision))


def verify(folder: Path, written: Written, evidence: Evidence, around: Surroundings) -> Verification:
    """Verify an export; the arguments are those of `measure`.

    Raises:
        AlignError: it is not what was trained, or the program refuses it.
    """
    found, cautions = measure(folder, written, evidence, around), _cautions(folder, written, around)
    if isinstance(found, Unread):
        return Verification(None, found.reason, found.hint, cautions)
    comparison, verdict = found
    if verdict.problems:
        raise AlignError(
            f"this is not the model that was trained: {'; '.join(verdict.problems)} ({comparison.figures()})",
            where=comparison.loader,
        )
    return Verification(comparison, warnings=(*verdict.warnings, *cautions))


def _cautions(folder: Path, written: Written, around: Surroundings) -> tuple[str, ...]:
    return tuple(otherwise(written.loaders, written.worn, folder / written.model, around))

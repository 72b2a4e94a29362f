"""Is an arm's work the work that was asked for? Compared with the float64 oracle, before its time counts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.bench.peers.oracle import gradient_file

LOSS, GRADIENT, UPDATE = 2e-4, 1e-3, 0.2
"""Largest relative differences: of the first loss, of the first gradient (its norm), and of what the
optimiser's first update does to the loss of the second step.

They leave room for float32: DPO subtracts sums of some hundred log-probabilities near -10, and trainers that
compute those as a logit less a logarithm of a sum were seen 6e-5 off in the loss, 7e-5 in the gradient and
0.04 in the update, at 41 million weights. The gradient tells a wrong mask, the update a missing bias
correction, which would treble it.
"""


@dataclass(frozen=True)
class Verdict:
    """Relative differences from the oracle's numbers, and what is wrong, if anything."""

    definition: str
    loss: float
    gradient: float
    update: float
    failed: list[str]

    @property
    def passed(self) -> bool:
        """Whether the arm is compared."""
        return not self.failed

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"verdict": "equivalent" if self.passed else "not equivalent", **asdict(self)}


def judge(folder: Path, definition: str, gradient: Path, losses: list[float]) -> Verdict:
    """Compare an arm with the oracle.

    Args:
        folder: the workload's, with the oracle's files.
        definition: what the arm says it computes.
        gradient: the gradient the arm left.
        losses: of its timed run's first two steps.
    """
    wanted = json.loads((folder / "oracle.json").read_text(encoding="utf-8"))[definition]
    first = abs(losses[0] / wanted["losses"][0] - 1)
    after, unmoved = wanted["losses"][1], wanted["second_if_unmoved"]
    update = abs((losses[1] - after) / (after - unmoved))
    want, seen = load_file(gradient_file(folder, definition)), load_file(gradient)
    difference = np.sqrt(sum(float(np.square(seen[name] - want[name]).sum()) for name in want))
    relative = float(difference) / wanted["gradient_norm"]
    failed = [
        f"{what}: {found:.1e} from the oracle's"
        for what, found, limit in (
            ("loss of the first step", first, LOSS),
            ("gradient of the first step", relative, GRADIENT),
            ("effect of the first update", update, UPDATE),
        )
        if not found <= limit
    ]
    return Verdict(definition, first, relative, update, failed)

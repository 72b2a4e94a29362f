"""The reference policy's log-probabilities, computed once, before the first update.

The reference is the model as it is when the run starts: the base model for a fresh adapter (its B is zero),
base plus starting adapter when continuing from one. So nothing has to be switched off: the first policy
scores every row, and the result is kept in the run directory for later attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mlx_align.backends.base import Policy
from mlx_align.data import Example, collate, eval_batches
from mlx_align.errors import AlignError
from mlx_align.runs.atomic import new_folder

Ragged = list[list[NDArray[np.float32]]]


def reference_logps(
    policy: Policy,
    examples: Sequence[Example],
    *,
    batch_size: int,
    scores_prompt: bool,
    progress: Callable[[int, int], None],
) -> Ragged:
    """For each example, for each branch, its (T_i,) log-probabilities under the policy as it is now."""
    result: Ragged = [[] for _ in examples]
    done = 0
    for indices in eval_batches([example.length for example in examples], batch_size):
        batch = collate([examples[i] for i in indices], scores_prompt=scores_prompt)
        logps, lens = policy.logps(batch), batch.branch_mask.sum(axis=1).astype(int)
        for row, index in enumerate(indices):
            branches = range(row * batch.branches, (row + 1) * batch.branches)
            result[index] = [logps[n, : lens[n]].copy() for n in branches]
        done += len(indices)
        progress(done, len(examples))
    return result


def save(folder: Path, **parts: Ragged) -> None:
    """Keep the log-probabilities of several sets of examples in a new folder."""
    with new_folder(folder) as temporary:
        for name, ragged in parts.items():
            flat = [array for branches in ragged for array in branches]
            save_file(
                {
                    "logps": np.concatenate(flat) if flat else np.zeros(0, np.float32),
                    "lengths": np.array([len(array) for array in flat], np.int64),
                    "branches": np.array([len(branches) for branches in ragged], np.int64),
                },
                temporary / f"{name}.safetensors",
            )


def load(folder: Path, name: str, examples: Sequence[Example]) -> Ragged:
    """What `save` kept.

    Raises:
        AlignError: it does not fit these examples, because the data has changed since.
    """
    kept = load_file(folder / f"{name}.safetensors")
    arrays = iter(np.split(kept["logps"], np.cumsum(kept["lengths"])[:-1]))
    ragged = [[next(arrays) for _ in range(int(count))] for count in kept["branches"]]
    if len(ragged) != len(examples):
        raise AlignError(
            f"the reference log-probabilities are of {len(ragged)} rows, the data has {len(examples)}",
            where=str(folder),
            hint="The data has changed since the run started: start a new run.",
        )
    return ragged

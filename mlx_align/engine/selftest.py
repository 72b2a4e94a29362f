"""Does this device compute what another one computes? A minute of parity on the user's own machine.

The embedded model and a few sample rows go through the Backend protocol twice: on the device under test
and on a CPU. Compared are token log-probabilities, every method's loss and adapter gradient, ten training
steps, a checkpoint put back in the middle of them, and the adapter as written to disk.

An accelerator is compared with the same framework's CPU device; a CPU device with the other framework's,
because two runs of one implementation would agree on its mistakes too.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlx_align import backends, embedded, methods
from mlx_align.backends.base import Backend, Objective, Policy, State
from mlx_align.batch import Batch
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.data import Example, collate, load_dataset, tokenize_rows
from mlx_align.engine.tokenizer import load_tokenizer

ROWS, STEPS, BATCH = 8, 10, 4
ADAPTER = AdapterConfig(rank=4)
OPTIM = OptimConfig(lr=1e-3, weight_decay=0.01)


@dataclass(frozen=True)
class Tolerances:
    """Largest differences that rounding explains.

    Attributes:
        logps: absolute, on log-probabilities.
        loss: relative, on a loss.
        gradient: relative to the largest entry of each array.
        run: relative, on the losses of a short run, where differences grow from step to step.
    """

    logps: float
    loss: float
    gradient: float
    run: float


TOLERANCES = {
    # Unit roundoff u = 2^-24 = 6e-8. A log-probability near -10 stands on logits that are sums over some
    # hundred products in four layers: about 10 * sqrt(400) * u = 1e-5, with a factor of ten to spare
    # (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and 3.5).
    "float32": Tolerances(logps=1e-4, loss=1e-5, gradient=1e-4, run=1e-3),
    # u = 2^-8 on every stored activation.
    "bfloat16": Tolerances(logps=3e-1, loss=5e-2, gradient=3e-1, run=1e-1),
}
"""By the precision of the device under test; the CPU it is compared with always computes in float32."""
PLAIN_PRODUCTS = {"MLX_ENABLE_TF32": "0"}
"""Otherwise MLX's GPUs, NVIDIA's and from the M5 on Apple's, multiply float32 numbers with 10 bits of each
(TF32): 8,000 times float32's rounding, on the products only, behind which a mistake could hide."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: what was compared.
        difference: the largest difference found; not finite if something was not.
        tolerance: the largest that passes.
    """

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether they agree; a difference that is not a number does not."""
        return bool(self.difference <= self.tolerance)


@dataclass(frozen=True)
class Observation:
    """What one device computes, on the host."""

    logps: NDArray[np.float32]
    losses: dict[str, float]
    gradients: dict[str, State]
    run: list[float]
    resumed: list[float]
    exported: float


def sample_examples() -> tuple[Example, ...]:
    """The first rows of the sample data, as tokens."""
    dataset = load_dataset(embedded.sample_for("pair"), "pair", valid_fraction=0.1, seed=0)
    tokenizer = load_tokenizer(embedded.model_folder())
    return tokenize_rows(dataset.train[:ROWS], tokenizer, max_length=512, too_long="error").examples


def observe(backend: Backend, examples: Sequence[Example], progress: Callable[[str], None]) -> Observation:
    """Put a device through its paces."""

    def fresh() -> Policy:
        return backend.load_policy(embedded.model_folder(), ADAPTER, OPTIM, 0)

    policy = fresh()
    base = policy.logps(collate(examples))
    policy.load_adapter_state(disturbed(policy.adapter_state()))
    progress(f"{backend.device}: log-probabilities and losses")
    logps = policy.logps(collate(examples))
    losses, gradients = {}, {}
    for name, method in methods.METHODS.items():
        objective = Objective(method, method.hyperparameters())
        batch = batch_for(objective, examples, base)
        counts = method.counts(batch, objective.hp)
        scores = policy.accumulate(batch, objective, counts, seed=0)
        losses[name] = sum(value / counts[term] for term, value in scores.sums.items())
        state = policy.training_state()
        gradients[name] = {k: v for k, v in state.items() if k.startswith("gradient.")}
        policy.discard()
    progress(f"{backend.device}: {STEPS} steps, and again with a checkpoint in the middle")
    trained = fresh()
    run = train(trained, examples, 0, STEPS)
    first = fresh()
    resumed = train(first, examples, 0, STEPS // 2)
    second = fresh()
    second.load_adapter_state(first.adapter_state())
    second.load_training_state(first.training_state())
    resumed += train(second, examples, STEPS // 2, STEPS)
    return Observation(logps, losses, gradients, run, resumed, exported(backend, trained, examples))


def batch_for(objective: Objective, examples: Sequence[Example], base: NDArray[np.float32]) -> Batch:
    """The rows as this method wants them: with their reference, and only the chosen answer for SFT.

    For GRPO a pair is a group of two answers that the reference sampled, of which the first was better.
    """
    if objective.method.rows == "completion":
        examples = [
            Example(e.name, e.prompt_ids, e.branch_ids[:1], e.prompt_text, e.question, e.answers[:1])
            for e in examples
        ]
        return collate(examples)
    ref = [
        [base[2 * row + which, : len(ids)] for which, ids in enumerate(example.branch_ids)]
        for row, example in enumerate(examples)
    ]
    batch = collate(examples, ref_logps=ref)
    if objective.method.rows == "prompt":
        advantages = np.tile(np.array([1, -1], np.float32), batch.size)
        return replace(batch, advantages=advantages, old_logps=batch.ref_logps)
    return batch


def disturbed(state: State) -> State:
    """The adapter with small numbers in every B, so that all of its gradient is alive."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0, 0.02, state[name].shape).astype(np.float32)
        if name.endswith("lora_b")
        else state[name]
        for name in sorted(state)
    }


def train(policy: Policy, examples: Sequence[Example], first: int, end: int) -> list[float]:
    """ORPO steps `first` to `end`, in fixed batches; the loss of each."""
    method = methods.get("orpo")
    objective = Objective(method, method.hyperparameters())
    losses = []
    for step in range(first, end):
        start = step * BATCH % len(examples)
        batch = collate(examples[start : start + BATCH])
        counts = method.counts(batch, objective.hp)
        scores = policy.accumulate(batch, objective, counts, seed=step)
        policy.update(OPTIM.lr)
        losses.append(sum(value / counts[term] for term, value in scores.sums.items()))
    return losses


def exported(backend: Backend, policy: Policy, examples: Sequence[Example]) -> float:
    """Largest difference in log-probabilities between a policy and its adapter read back from disk."""
    batch = collate(examples)
    with tempfile.TemporaryDirectory() as name:
        policy.save_adapter(Path(name))
        again = backend.load_for_generation(embedded.model_folder(), Path(name))
        return float(np.abs(again.logps(batch) - policy.logps(batch)).max())


def compare(tested: Observation, reference: Observation, limits: Tolerances) -> list[Check]:
    """The table of comparisons."""
    checks = [
        Check("token log-probabilities", float(np.abs(tested.logps - reference.logps).max()), limits.logps)
    ]
    for name, loss in reference.losses.items():
        checks.append(Check(f"{name} loss", relative([tested.losses[name]], [loss]), limits.loss))
        worst = max(
            float(np.abs(tested.gradients[name][key] - want).max() / np.abs(want).max())
            for key, want in reference.gradients[name].items()
        )
        checks.append(Check(f"{name} adapter gradient", worst, limits.gradient))
    return [
        *checks,
        Check(f"{STEPS}-step run", relative(tested.run, reference.run), limits.run),
        Check("run resumed from its middle", relative(tested.resumed, tested.run), limits.run),
        Check("adapter read back from disk", tested.exported, limits.logps),
    ]


def relative(got: Sequence[float], want: Sequence[float]) -> float:
    """Largest relative difference."""
    return max(abs(g - w) / abs(w) for g, w in zip(got, want, strict=True))


@dataclass(frozen=True)
class Report:
    """The outcome of a selftest.

    Attributes:
        tested: the device under test.
        reference: the device it was compared with.
        dtype: what the device under test computed in, a key of TOLERANCES.
        versions: library versions of both.
        environment: variables that were set for the test alone.
        checks: the comparisons.
    """

    tested: str
    reference: str
    dtype: str
    versions: dict[str, str]
    environment: dict[str, str]
    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether all agree."""
        return all(check.passed for check in self.checks)


def reference_for(tested: BackendConfig, device: str) -> BackendConfig:
    """What to compare a device with: its framework's CPU, or for a CPU the other framework's."""
    other: Literal["mlx", "torch"] = "torch" if tested.name == "mlx" else "mlx"
    name = other if device.endswith(":cpu") else tested.name
    return BackendConfig(name=name, device="cpu", dtype="float32")


def run(config: BackendConfig, progress: Callable[[str], None]) -> Report:
    """Compare the configured device with another one, in a process in which MLX has computed nothing yet.

    Args:
        config: the device under test; dtype "auto" stands for float32, so that what is judged is the
            implementation and not the model file's precision.
        progress: told what happens now.

    Raises:
        UsageError: the device, or the framework to compare it with, is not there.
    """
    chosen = config if config.dtype != "auto" else config.model_copy(update={"dtype": "float32"})
    environment = PLAIN_PRODUCTS if chosen.name == "mlx" else {}
    os.environ.update(environment)  # MLX looks when it first multiplies
    examples = sample_examples()
    backend = backends.create(chosen)
    device, versions = backend.device, backend.versions()
    tested = observe(backend, examples, progress)
    other = backends.create(reference_for(chosen, device))
    reference = observe(other, examples, progress)
    dtype = str(chosen.dtype)
    checks = compare(tested, reference, TOLERANCES[dtype])
    return Report(device, other.device, dtype, {**versions, **other.versions()}, environment, checks)

"""Proof that the suite can fail: the mistakes of this field, put in on purpose, each turn a test red.

Each mutant is a copy of the package with one line changed; the named tests run in it and must fail, in the
way a test fails (exit code 1), not because the mutant cannot be imported. They take turns in one process.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT


@dataclass(frozen=True)
class Mutation:
    """One line changed in one file, and the tests that must notice."""

    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


LOSSES = "tests/unit/methods/test_losses.py"
GRPO = "tests/unit/methods/test_grpo_loss.py"
INVARIANCE = "tests/property/test_invariance.py"
FORWARD = "tests/unit/backends/test_mlx_forward.py"
MUTATIONS = {
    "a prompt's first token scored": Mutation(
        "mlx_align/data/batching.py",
        "marks = [[0] + [1] * (len(prompt) - 1) for prompt in prompts]",
        "marks = [[1] * len(prompt) for prompt in prompts]",
        ("tests/property/test_batching.py",),
    ),
    "mask shifted by one": Mutation(
        "mlx_align/backends/mlx/forward.py",
        "Predicted.of(batch, starts - 1,",
        "Predicted.of(batch, starts,",
        (FORWARD, "-k", "single_sequences and qwen2"),
    ),
    "a prompt's token predicted by itself": Mutation(
        "mlx_align/backends/sequences.py",
        "np.maximum(token - 1, 0)",
        "token",
        (FORWARD, "-k", "scored_prompts and qwen3-True-True-none"),
    ),
    "last prompt token read with the prompt": Mutation(
        "mlx_align/backends/sequences.py",
        "lens = (batch.prompt_lens - 1)[batch.branch_row]",
        "lens = batch.prompt_lens[batch.branch_row]",
        (f"{INVARIANCE}::test_logps_are_those_of_the_single_sequence",),
    ),
    "no gradient through the prompt's keys and values": Mutation(
        "mlx_align/backends/mlx/checkpointing.py",
        "twins = [cache.twin(own) for",
        "twins = [cache.twin([mx.stop_gradient(x) for x in own]) for",
        (FORWARD, "-k", "checkpointing_changes and qwen3-layers"),
    ),
    "softmax over a chunk's slopes forgotten": Mutation(
        "mlx_align/backends/mlx/selected.py",
        "mx.put_along_axis(-self._others, self._top,",
        "mx.put_along_axis(0 * self._others, self._top,",
        ("tests/unit/backends/test_mlx_selected.py", "-k", "without_bias"),
    ),
    "ORPO without log(1 - p)": Mutation(
        "mlx_align/methods/orpo.py",
        "log_odds = (a_chosen - a_rejected) - (log1mexp(xp, a_chosen) - log1mexp(xp, a_rejected))",
        "log_odds = a_chosen - a_rejected",
        (LOSSES, "-k", "orpo and float32_holds"),
    ),
    "SimPO's margin inside beta": Mutation(
        "mlx_align/methods/simpo.py",
        "chosen - rejected - hp.gamma",
        "chosen - rejected - hp.beta * hp.gamma",
        (LOSSES, "-k", "simpo and float32_holds"),
    ),
    "reference is the policy, gradient stopped": Mutation(
        "mlx_align/methods/dpo.py",
        "sequence_logps(xp, logps - ref_logps,",
        "sequence_logps(xp, logps - xp.stop_gradient(logps),",
        (LOSSES, "-k", "dpo and float32_holds"),
    ),
    "GRPO's ratio to the reference": Mutation(
        "mlx_align/methods/grpo.py",
        "if batch.old_logps is None else batch.old_logps",
        "if batch.old_logps is None else batch.ref_logps",
        (GRPO, "-k", "oracles and grpo-plain"),
    ),
    "GRPO's KL the other way round": Mutation(
        "mlx_align/methods/grpo.py",
        "(ref_logps - logps) * batch.branch_mask",
        "(logps - ref_logps) * batch.branch_mask",
        (GRPO, "-k", "oracles and grpo-kl"),
    ),
    "GRPO's clip without the minimum": Mutation(
        "mlx_align/methods/grpo.py",
        "xp.where(free < held, free, held)",
        "held",
        (GRPO, "-k", "oracles and bnpo-plain"),
    ),
    "truncated answers in GRPO's loss": Mutation(
        "mlx_align/methods/grpo.py",
        "xp.sum(losses * batch.response_mask, axis=-1)",
        "xp.sum(losses * batch.branch_mask, axis=-1)",
        (GRPO, "-k", "oracles and dapo-plain"),
    ),
    "micro-batch means instead of token weights": Mutation(
        "mlx_align/backends/mlx/step.py",
        "sum(loss.sums[term] / counts[term] for term in loss.sums)",
        "sum(loss.sums[term] / arrays['response_mask'].sum() for term in loss.sums)",
        (INVARIANCE, "-k", "batching and sft"),
    ),
}


@dataclass(frozen=True)
class Project:
    """A copy of the package and its tests, and a process that runs tests in it."""

    folder: Path
    process: subprocess.Popen[str]

    def run(self, tests: tuple[str, ...]) -> tuple[int, str]:
        """pytest's exit code, and what it said."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(["-x", "-p", "no:cacheprovider", *tests]) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        return reply["code"], reply["said"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("mutants") / "project"
    for name in ("mlx_align", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "pictures"))
    for name in ("models", "data_samples", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-B", "-m", "tests.parity.mutants"]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Project(folder, process)
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_mistake_is_noticed(name: str, project: Project) -> None:
    mutation = MUTATIONS[name]
    target = project.folder / mutation.file
    source = target.read_text(encoding="utf-8")
    assert source.count(mutation.right) == 1, f"{mutation.file} no longer has the line to change"
    target.write_text(source.replace(mutation.right, mutation.wrong), encoding="utf-8")
    try:
        code, said = project.run(mutation.tests)
    finally:
        target.write_text(source, encoding="utf-8")
    assert code == 1, said
    assert "FAILED" in said


@pytest.mark.slow
@pytest.mark.parametrize("tests", sorted({mutation.tests for mutation in MUTATIONS.values()}), ids=" ".join)
def test_without_a_mistake_the_same_tests_pass(tests: tuple[str, ...], project: Project) -> None:
    """Otherwise the mutants could fail for any reason at all; and each comes after mutants in its process."""
    code, said = project.run(tests)
    assert code == 0, said

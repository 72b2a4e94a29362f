"""The parity proof on an NVIDIA GPU: every comparison of tests/parity, on the devices that are there.

    make bench-cuda        or: python -m tests.bench.cuda_parity [--devices torch:cuda mlx:cuda]

Writes tests/bench/results/selftest/<device>.json (losses, gradients, a short run, checkpoint, export: what
`doctor --selftest` measures) and tests/bench/results/parity-<device>.json (log-probabilities of every
architecture, TRL's trainers, a 30-step run). The CPU it compares with computes in float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from mlx_align import backends, embedded
from mlx_align.backends.base import Backend
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.data import collate
from mlx_align.engine import selftest
from mlx_align.errors import AlignError
from mlx_align_cli.commands.selftest import as_tree
from tests import support
from tests.bench.provenance import write
from tests.parity.architectures import ARCHITECTURES, build

CPU = BackendConfig(name="torch", device="cpu", dtype="float32")
STEPS = 30


def config_of(device: str) -> BackendConfig:
    """A backend configuration from "torch:cuda"."""
    name, _, kind = device.partition(":")
    chosen = {"cuda": "cuda" if name == "torch" else "gpu", "metal": "gpu"}.get(kind, kind)
    return BackendConfig(name=cast(Literal["mlx", "torch"], name), device=cast(Any, chosen), dtype="float32")


def logps(backend: Backend, model: Path) -> np.ndarray:
    """Log-probabilities of the sample rows, with an adapter that matters."""
    policy = backend.load_policy(model, AdapterConfig(rank=4), OptimConfig(), 0)
    policy.load_adapter_state(support.disturbed(policy.adapter_state(), 0.2))
    return policy.logps(collate(support.examples()[:4], pad_to=8))


def architectures(backend: Backend, folder: Path) -> dict[str, float | str]:
    """(a) The largest difference in log-probabilities, by architecture."""
    found: dict[str, float | str] = {}
    for name in ARCHITECTURES:
        model = folder / name
        if not model.exists():
            build(name, model)
        try:
            found[name] = float(np.abs(logps(backend, model) - logps(backends.create(CPU), model)).max())
        except AlignError as error:
            found[name] = str(error)
    return found


def trl(backend: Backend, folder: Path) -> dict[str, float] | str:
    """(c) The largest relative difference from TRL's trainers, in a loss or an adapter gradient."""
    try:
        from tests.parity import test_trl
    except ImportError as error:
        return f"not run: {error}"
    found = {}
    for case, (method, hp, kind, options) in test_trl.CASES.items():
        policy = backend.load_policy(
            embedded.model_folder(), AdapterConfig(rank=test_trl.RANK), OptimConfig(), 0
        )
        policy.load_adapter_state(support.disturbed(policy.adapter_state()))
        loss, gradient, state = test_trl.ours(method, hp, policy)
        want, their_gradient = test_trl.theirs(kind, state, folder / case.replace(" ", "-"), **options)
        worst = max(float(np.abs(gradient[k] - g).max() / np.abs(g).max()) for k, g in their_gradient.items())
        found[case] = max(abs(loss / want - 1), worst)
    return found


def long_run(backend: Backend) -> float:
    """(d) The largest relative difference in loss over thirty steps."""
    examples = selftest.sample_examples()

    def run(on: Backend) -> list[float]:
        policy = on.load_policy(embedded.model_folder(), selftest.ADAPTER, selftest.OPTIM, 0)
        return selftest.train(policy, examples, 0, STEPS)

    return selftest.relative(run(backend), run(backends.create(CPU)))


def measure(device: str) -> None:
    """Measure one device and write both files."""
    config = config_of(device)
    report = selftest.run(config, lambda what: print(what, file=sys.stderr))
    name = device.replace(":", "-")
    print(write(f"selftest/{name}.json", as_tree(report)))
    backend = backends.create(config)
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "device": backend.device,
            "reference": "torch:cpu",
            "tolerances": vars(selftest.TOLERANCES[report.dtype]),
            "a. log-probabilities, largest absolute difference": architectures(backend, Path(folder)),
            "c. loss or gradient against TRL, largest relative difference": trl(backend, Path(folder)),
            f"d. loss over {STEPS} steps, largest relative difference": long_run(backend),
        }
    print(write(f"parity-{name}.json", result))


def main() -> None:
    """Measure the devices that are there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--devices", nargs="+", default=["torch:cuda", "mlx:cuda"])
    measured = 0
    for device in parser.parse_args().devices:
        try:
            backends.create(config_of(device))
        except AlignError as error:
            print(f"{device}: {error}", file=sys.stderr)
            continue
        measure(device)
        measured += 1
    sys.exit(0 if measured else 1)


if __name__ == "__main__":
    main()

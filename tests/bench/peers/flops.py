"""Counted arithmetic of a cell, and the rate of the same matrix products on this machine.

    python -m tests.bench.peers.flops WORKLOAD OUTCOME --framework mlx|torch      measures and writes the rate

A multiplication and an addition are two. The base is frozen, so going back costs what going forward costs
(the gradient of the activations only), but for attention and the adapter, where it costs twice that.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.peers.workload import Row, Workload

REPEATS = 3


def counted(workload: Workload, config: dict[str, int]) -> dict[str, float]:
    """Floating-point operations of the whole run.

    "pair" is the work of 2P + C + R tokens, as trainers commonly do it; "least" has each prompt once. Both
    compute the head for the responses only. What a trainer does beyond (padding, recomputing) is not counted.
    """
    return {
        "pair": sum(_row(workload, config, row, shared=False) for row in workload.rows),
        "least": sum(_row(workload, config, row, shared=True) for row in workload.rows),
    }


def _row(workload: Workload, config: dict[str, int], row: Row, *, shared: bool) -> float:
    p, answers = len(row.prompt), (len(row.chosen), len(row.rejected))
    sequences = 1 if shared else 2
    tokens = sequences * p + sum(answers)
    keys = sequences * p * p / 2 + sum(n * p + n * n / 2 for n in answers)
    base, lora = _layer_products(workload, config)
    linear, adapter = 2 * base * tokens, 2 * lora * tokens
    attention = 4 * config["num_hidden_layers"] * config["num_attention_heads"] * config["head_dim"] * keys
    head = 2 * config["hidden_size"] * config["vocab_size"] * sum(answers)
    total = 2 * (linear + head) + 3 * (attention + adapter)
    reference = linear + head + attention if workload.method == "dpo" else 0
    return total + reference


def _layer_products(workload: Workload, config: dict[str, int]) -> tuple[float, float]:
    """Multiplications a token in all layers: of the base and of the adapter."""
    shapes = linears(config)
    base = sum(inputs * outputs for inputs, outputs in shapes)
    lora = sum(workload.rank * (inputs + outputs) for inputs, outputs in shapes)
    return config["num_hidden_layers"] * base, config["num_hidden_layers"] * lora


def linears(config: dict[str, int]) -> list[tuple[int, int]]:
    """(inputs, outputs) of one layer's projections."""
    hidden, ff = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    return [(hidden, q), (hidden, kv), (hidden, kv), (q, hidden), (hidden, ff), (hidden, ff), (ff, hidden)]


def read_config(workload: Workload) -> dict[str, int]:
    """The model's config.json."""
    return json.loads((workload.folder / "config.json").read_text(encoding="utf-8"))


# The rate of the same products


def products(workload: Workload, config: dict[str, int]) -> list[tuple[int, int, int, int]]:
    """(times, M, K, N) of an average step's products: every projection, and the head on the responses."""
    steps = workload.steps
    tokens = round(sum(row.tokens for row in workload.rows) / steps)
    scored = round(sum(len(row.chosen) + len(row.rejected) for row in workload.rows) / steps)
    layers = [(config["num_hidden_layers"], tokens, inputs, outputs) for inputs, outputs in linears(config)]
    return [*layers, (1, scored, config["hidden_size"], config["vocab_size"])]


def rate(shapes: list[tuple[int, int, int, int]], seconds_of: Callable[[int, int, int], float]) -> float:
    """Operations a second over all of them, each weighing as often as it occurs."""
    work = sum(2.0 * times * m * k * n for times, m, k, n in shapes)
    return work / sum(times * seconds_of(m, k, n) for times, m, k, n in shapes)


def _mlx_seconds(m: int, k: int, n: int) -> float:
    import mlx.core as mx

    a, b = mx.random.normal((m, k)), mx.random.normal((k, n))
    mx.eval(a, b)
    return _fastest(lambda: mx.eval(a @ b))


def _torch_seconds(m: int, k: int, n: int) -> float:
    import torch

    a, b = torch.randn(m, k), torch.randn(k, n)
    return _fastest(lambda: a @ b)


def _fastest(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Measure one framework's rate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", type=Path)
    parser.add_argument("outcome", type=Path)
    parser.add_argument("--framework", choices=("mlx", "torch"), required=True)
    arguments = parser.parse_args()
    workload = Workload.read(arguments.workload)
    if arguments.framework == "mlx":
        from tests.bench.peers import mlx_arms  # noqa: F401  preloads OpenBLAS

        measured = _mlx_seconds
    else:
        measured = _torch_seconds
    result = {"rate": rate(products(workload, read_config(workload)), measured)}
    arguments.outcome.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()

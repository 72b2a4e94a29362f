"""Puts the measured figures into the README, from the files in tests/bench/results.

    python -m tests.bench.readme        rewrites what stands between the markers

A test checks that the README says what the files say.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from statistics import mean
from typing import Any

from mlx_align.methods import METHODS
from tests.bench.peers import table
from tests.bench.provenance import RESULTS
from tests.conftest import ROOT

README = ROOT / "README.md"
DEVICES = ("mlx:cpu", "mlx:metal", "mlx:cuda", "torch:cpu", "torch:cuda", "torch:mps")


def read(name: str) -> dict[str, Any]:
    """One result file."""
    tree: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return tree


def ceiling(value: float) -> str:
    """One significant digit, rounded up: a largest difference must not be told too small."""
    exact = Decimal(repr(value))
    return f"{exact.quantize(Decimal((0, (1,), exact.adjusted())), ROUND_CEILING):.0e}"


def manner() -> str:
    """What alignment does to the embedded model."""
    result = read("manner.json")
    lines = [
        "| method | crisp answers before | after, three seeds | least held-out accuracy | seconds, all in |",
        "|---|---|---|---|---|",
    ]
    for method in ("orpo", "dpo", "simpo"):
        runs = [run for run in result["runs"] if run["method"] == method]
        after = ", ".join(f"{run['crisp_after']:.1%}" for run in runs)
        accuracy = min(run["held_out_accuracy"] for run in runs)
        seconds = mean(run["seconds"] for run in runs)
        lines.append(
            f"| {method} | {result['crisp_before']:.1%} | {after} | {accuracy:.1%} | {seconds:.0f} |"
        )
    return "\n".join(
        [
            f"Measured with `make bench-demo` on {result['machine']}, mlx {result['versions']['mlx']}"
            f" on the CPU: greedy answers to {result['prompts']} held-out prompts, judged by a fixed rule.",
            "",
            *lines,
        ]
    )


def verified() -> str:
    """Method by device, from the selftest results people have sent in."""
    reports = [read(f"selftest/{path.name}") for path in sorted((RESULTS / "selftest").glob("*.json"))]
    by_device: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        by_device.setdefault(report["tested"], []).append(report)
    lines = [
        "| | " + " | ".join(f"`{device}`" for device in DEVICES) + " |",
        "|---" * (len(DEVICES) + 1) + "|",
    ]
    for method in METHODS:
        cells = [_cell(method, by_device.get(device, [])) for device in DEVICES]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(_parity(path.name) for path in sorted(RESULTS.glob("parity-*.json")))])


def _parity(name: str) -> str:
    """One sentence for one result of tests/bench/cuda_parity.py."""
    result = read(name)
    logps = result["a. log-probabilities, largest absolute difference"]
    trl = result["c. loss or gradient against TRL, largest relative difference"]
    run = result["d. loss over 30 steps, largest relative difference"]
    numbers = [value for value in logps.values() if isinstance(value, float)]
    sentence = (
        f"- `{result['device']}` against `{result['reference']}`: log-probabilities of {', '.join(logps)}"
        f" differ by at most {ceiling(max(numbers))}, the losses of a 30-step run by {ceiling(run)}"
    )
    if isinstance(trl, dict):
        sentence += f"; loss or gradient from TRL's own trainers by at most {ceiling(max(trl.values()))}"
    return f"{sentence}."


def _cell(method: str, reports: list[dict[str, Any]]) -> str:
    """The largest gradient difference a device has shown, against which device, or that nobody has looked."""
    found = [
        (check["difference"], report["reference"], check["passed"])
        for report in reports
        for check in report["checks"]
        if check["name"] == f"{method} adapter gradient"
    ]
    if not found:
        return "not verified"
    difference, reference, passed = max(found)
    return f"{'' if passed else 'FAILS: '}{ceiling(difference)} from {reference}"


def peers() -> str:
    """Real trainers of other projects on the same work."""
    return table.peers(read("peers.json"))


def memory() -> str:
    """How good the planner's predictions are."""
    result = read("memory.json")
    ratios = [outcome["ratio"] for outcome in result["outcomes"]]
    least, most = math.floor(100 * min(ratios)) / 100, math.ceil(100 * max(ratios)) / 100
    return (
        f"On a CPU {result['within']} of {result['configurations']} predictions are within "
        f"{result['tolerance']:.0%} of what MLX measures, and all between {least:.2f} and {most:.2f} times "
        "as much (`make bench-memory`); on Metal and CUDA this is **not verified**."
    )


def grpo() -> str:
    """What GRPO teaches the embedded model, and what sampling and an update cost."""
    result, rollouts, step = read("grpo.json"), read("rollouts.json"), read("grpo-step.json")
    after = ", ".join(f"{run['exact_after']:.1%}" for run in result["runs"])
    longest = max(run["seconds"] for run in result["runs"]) / 60
    group = next(case for case in rollouts["cases"] if case["samples"] == 8)
    medians = step["median"]
    return (
        f"Measured on {result['machine']}, mlx {result['versions']['mlx']} on the CPU: of "
        f"{result['problems']} held-out sums `tiny-chat` answers {result['exact_before']:.1%} right, and "
        f"after `mlx-align grpo` {after} (three seeds, at most {longest:.1f} minutes each; "
        "`make bench-grpo`). "
        f"A group of 8 completions costs {group['ratio']:.2f} of what they cost one by one with mlx-lm. An "
        f"update of a 41 million parameter model, 2 prompts with 4 completions of 64 tokens, takes "
        f"{medians['ours']:.1f} s, with TRL on torch {medians['trl']:.1f} s."
    )


def tui() -> str:
    """How quickly the terminal UI is with a long run."""
    result = read("tui-speed.json")
    attach, redraws = result["attach"], result["redraws"]
    wall, cpu = (1000 * max(drawn[kind] for drawn in redraws) for kind in ("wall", "cpu"))
    return (
        f"Measured with `make bench-tui` on {result['machine']}, textual {result['versions']['textual']}: "
        f"a run of {result['events']:,} events is on the screen after {attach['wall']:.1f} s, "
        f"{attach['cpu']:.1f} s of CPU time, and all its plots are drawn anew in at most {math.ceil(wall)} "
        f"ms, {math.ceil(cpu)} ms of CPU time."
    )


SECTIONS: dict[str, Callable[[], str]] = {"manner": manner, "verified": verified, "memory": memory}
if (RESULTS / "grpo.json").exists():
    SECTIONS["grpo"] = grpo
if (RESULTS / "peers.json").exists():
    SECTIONS["peers"] = peers
if (RESULTS / "tui-speed.json").exists():
    SECTIONS["tui"] = tui


def render(text: str) -> str:
    """The README with every marked section made anew."""
    for name, section in SECTIONS.items():
        pattern = re.compile(f"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        text, count = pattern.subn(lambda m, s=section: f"{m[1]}{s()}\n{m[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"README.md has {count} sections named {name}")
    return text


def main() -> None:
    """Rewrite the README."""
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The peer benchmark for the README, from results/peers.json."""

from __future__ import annotations

from statistics import median
from typing import Any

from tests.bench.peers.cells import METHODS, VOCABULARIES, sweep
from tests.bench.peers.contenders import OURS, twin_of

Result = dict[str, Any]
GROUPS = {
    "headline": "UltraFeedback-like lengths (prompts about 180 tokens, responses about 220), "
    "12 steps of 2 pairs",
    "long": "Prompts of 1,000 tokens, responses of 200, 4 steps of 2 pairs",
}


def peers(result: Result) -> str:
    """All of it."""
    parts = [_introduction(result)]
    for group, what in GROUPS.items():
        if any(f"{group}-{method}" in result["cells"] for method in METHODS):
            parts.append(_group(result, group, what))
    parts += [_sweep(result), _disclosures(result)]
    return "\n\n".join(part for part in parts if part)


def _introduction(result: Result) -> str:
    machine, gate = result["machine"], result["gate"]
    return (
        f"Measured with `make bench-peers` on {machine['processor']} ({machine['cores']} cores, "
        f"{machine['memory_gb']:.0f} GB, {machine['system']}; {machine['device']}). Every arm is the peer's "
        "own trainer in its own environment, given the same token ids, batches, first adapter (LoRA, rank 8, "
        "all projections) and optimiser, in turns within one run; the median of the repeats. All MLX arms "
        "have the same OpenBLAS with the same kernels: with AVX-512 on an AMD processor, which ours asks for "
        "by itself. The rate counts "
        "unpadded pair tokens (2P + C + R) over the whole run, traces and DPO's reference included; memory "
        "is the peak over what the loaded model takes. An arm is compared only if its first loss "
        f"({gate['loss']:.0e}), its adapter gradient ({gate['gradient']:.0e}) and the effect of its first "
        f"update on the next loss ({gate['update']:.0%}) agree with a float64 oracle; the worst that was "
        f"compared were off by {_worst(result, 'loss')}, {_worst(result, 'gradient')} and "
        f"{_worst(result, 'update')}."
    )


def _worst(result: Result, what: str) -> str:
    """The largest difference from the oracle among the arms that are compared."""
    arms = [arm for cell in result["cells"].values() for arm in cell["arms"].values() if "error" not in arm]
    return f"{max(arm['gate'][what] for arm in arms if arm['gate']['verdict'] == 'equivalent'):.1e}"


def _group(result: Result, group: str, what: str) -> str:
    """One table: arms by methods."""
    methods = [method for method in METHODS if f"{group}-{method}" in result["cells"]]
    cells = {method: result["cells"][f"{group}-{method}"] for method in methods}
    shape = next(iter(cells.values()))
    lines = [
        f"{what}; {shape['parameters'] / 1e6:.1f} million weights, V = {shape['shape']['vocab']:,}:",
        "",
        "| pair tokens/s, memory | " + " | ".join(_heading(cells[method]) for method in methods) + " |",
        "|---" * (len(methods) + 1) + "|",
    ]
    for name, arm in result["arms"].items():
        row = [_entry(cells[method], name, method) for method in methods]
        if any(row):
            lines.append(f"| {arm['title']} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def _heading(cell: Result) -> str:
    times = cell["repeats"]
    return f"{cell['method']}, {'once' if times == 1 else f'{times} times'}"


def _entry(cell: Result, name: str, method: str) -> str:
    """Rate, memory and how many times as fast our arm of the same definition is."""
    arm = cell["arms"].get(name)
    if arm is None:
        return ""
    if "error" in arm:
        return "does not run"
    text = f"{arm['whole_rate']['median']:.0f}, {arm['peak_over_base'] / 1e9:.2f} GB"
    if arm["gate"]["verdict"] != "equivalent":
        return f"{text} (not equivalent: {'; '.join(arm['gate']['failed'])})"
    if name in cell["ratios"]:
        against = "" if twin_of(name, method) == "ours" else " ¹"
        text += f" (ours {cell['ratios'][name]['whole']:.1f}x{against})"
    return text


def _sweep(result: Result) -> str:
    """The sweep, a line for each peer and method."""
    cells = [cell for name, cell in result["cells"].items() if name.startswith("sweep-")]
    lines = [
        _swept(
            arm["title"], name, method, [c for c in cells if c["method"] == method and name in c["ratios"]]
        )
        for name, arm in result["arms"].items()
        for method in METHODS
        if name not in OURS
    ]
    if not any(lines):
        return ""
    measured, everything = len(cells), len(sweep())
    count = f"{everything} cells" if measured == everything else f"{measured} of {everything} cells so far"
    prompts, vocabularies = (
        _listed(sorted({cell[group][key] for cell in cells}))
        for group, key in (("lengths", "prompt"), ("shape", "vocab"))
    )
    largest = max(VOCABULARIES.values())
    head = [
        f"A sweep with a smaller body, {count}: prompts of {prompts} tokens, responses of 200, V = "
        f"{vocabularies}, checkpointing off and on. How many times as fast ours is, and the largest share of "
        f"the peer's memory that ours takes at V = {largest:,}:",
        "",
        "| | | cells | slowest | median | fastest | memory, checkpointing off | on |",
        "|---" * 8 + "|",
    ]
    return "\n".join([*head, *filter(None, lines)])


def _listed(numbers: list[int]) -> str:
    """Such as "50, 200 and 1,000"."""
    *others, last = [f"{number:,}" for number in numbers]
    return f"{', '.join(others)} and {last}" if others else last


def _swept(title: str, name: str, method: str, cells: list[Result]) -> str:
    """One line of the sweep."""
    if not cells:
        return ""
    speed = [cell["ratios"][name]["whole"] for cell in cells]
    large = [cell for cell in cells if cell["shape"]["vocab"] == max(VOCABULARIES.values())]
    shares = [
        max((c["ratios"][name]["memory"] for c in large if c["checkpointing"] == checkpointing), default=None)
        for checkpointing in (False, True)
    ]
    memory = " | ".join("" if share is None else f"{share:.2f}" for share in shares)
    return (
        f"| {title} | {method} | {len(cells)} | {min(speed):.1f}x | {median(speed):.1f}x | "
        f"{max(speed):.1f}x | {memory} |"
    )


def _disclosures(result: Result) -> str:
    lines = [
        "¹ ORPO's likelihood over prompt and response, as this peer has it, on both sides. mlx-lm-lora "
        "averages the likelihood within rows first; the work is the same as ours over the response.",
        "",
        "What had to be done to the peers, and what to know:",
        *(f"- {arm['title']}: {what}." for arm in result["arms"].values() for what in arm["disclosed"]),
        "- Memory of the MLX arms is MLX's own peak; of torch it is the resident set's.",
        "- The C++ kernels that MLX compiles at run time on a CPU are in its disk cache before any timing.",
    ]
    return "\n".join(lines)

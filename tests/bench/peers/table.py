"""The peer benchmark for the README, from results/peers.json."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from tests.bench.peers.cells import METHODS, VOCABULARIES, sweep
from tests.bench.peers.contenders import CONTENDERS, OURS, twin_of

Result = dict[str, Any]
GROUPS = {
    "headline": "UltraFeedback-like lengths (prompts about 180 tokens, responses about 220), "
    "12 steps of 2 pairs",
    "long": "Prompts of 1,000 tokens, responses of 200, 4 steps of 2 pairs",
}

MEMORY = [(vocab, on) for vocab in sorted(VOCABULARIES.values(), reverse=True) for on in (False, True)]
"""The columns of memory in the sweep: vocabulary, and whether with checkpointing."""
BUSY = 4.0
"""A load average of a minute at which others were at work: the arms alone come to about 2 on two cores."""


def peers(result: Result) -> str:
    """All of it."""
    parts = [_introduction(result)]
    for group, what in GROUPS.items():
        if any(f"{group}-{method}" in result["cells"] for method in METHODS):
            parts.append(_group(result, group, what))
    parts += [_sweep(result), _disclosures()]
    return "\n\n".join(part for part in parts if part)


def _introduction(result: Result) -> str:
    machine, gate = result["machine"], result["gate"]
    return (
        f"Measured with `make bench-peers` on {_processors(result)} ({machine['cores']} cores, "
        f"{machine['memory_gb']:.0f} GB, {machine['system']}; {machine['device']}). Every arm is the peer's "
        "own trainer, in an environment of its own (TRL in ours), given the same token ids, batches, first "
        "adapter (LoRA, rank 8, all projections) and optimiser, in turns within one run; the median of the "
        "repeats. All MLX arms have the same OpenBLAS with the same kernels: with AVX-512 on an AMD "
        "processor, which ours asks for by itself. The rate counts unpadded pair tokens (2P + C + R) over "
        "the whole run, traces (ours makes none on a CPU) and DPO's reference included; memory is the peak "
        "over what the loaded model takes. "
        f"An arm is compared only if its first loss ({gate['loss']:.0e}), its adapter gradient "
        f"({gate['gradient']:.0e}) and the effect of its first update on the next loss "
        f"({gate['update']:.0%}) agree with a float64 oracle; the worst that was compared were off by "
        f"{_worst(result, 'loss')}, {_worst(result, 'gradient')} and "
        f"{_worst(result, 'update')}. Utilisation is counted arithmetic over time and the rate of the same "
        f"matrix products in the same run ({_matrix_rates(result)}); it counts the head for the responses "
        "only, and a prompt for each answer, but once where ours reads it once. The load average before any "
        f"arm began was at most {_load(result)}. How many times as fast is rounded down, a share of "
        "memory up; peers.json has every repeat, and each cell's commit."
    )


def _worst(result: Result, what: str) -> str:
    """The largest difference from the oracle among the arms that are compared."""
    arms = [arm for cell in result["cells"].values() for arm in cell["arms"].values() if "error" not in arm]
    return f"{max(arm['gate'][what] for arm in arms if arm['gate']['verdict'] == 'equivalent'):.1e}"


def _processors(result: Result) -> str:
    """Those that cells were measured on."""
    cells = result["cells"].values()
    named = {cell["measured"]["processor"] for cell in cells}
    return " and ".join(sorted(x if "model" in x else f"{x}, model not noted" for x in named))


def _matrix_rates(result: Result) -> str:
    """Between what and what each framework's rates of matrix products lay, by cell."""
    found: dict[str, list[float]] = {}
    for cell in result["cells"].values():
        for framework, rate in cell["matrix_rate"].items():
            found.setdefault(framework, []).append(rate["median"] / 1e9)
    ranges = [f"{name} {min(rates):.0f} to {max(rates):.0f}" for name, rates in found.items()]
    return f"{', '.join(ranges)} GFLOP/s"


def _load(result: Result) -> str:
    """The largest load average of a minute before an arm began, cells of a busy machine apart."""
    most = {name: _load_of(cell) for name, cell in result["cells"].items()}
    busy = {name: load for name, load in most.items() if load > BUSY}
    quiet = [f"{max(load for load in most.values() if load <= BUSY):.1f}"] if len(busy) < len(most) else []
    others = [f"{max(busy.values()):.1f} in {', '.join(sorted(busy))}"] if busy else []
    return ", but up to ".join(quiet + others)


def _load_of(cell: Result) -> float:
    arms = [arm for arm in cell["arms"].values() if "error" not in arm]
    return max((load[0] for arm in arms for load in arm["load_average"]), default=0.0)


def _times(ratio: float) -> str:
    """How many times as fast, never more than it is."""
    return f"{math.floor(ratio * 10) / 10:.1f}x"


def _share(ratio: float) -> str:
    """A share of memory, never less than it is."""
    return f"{math.ceil(ratio * 100) / 100:.2f}"


def _group(result: Result, group: str, what: str) -> str:
    """One table: arms by methods."""
    methods = [method for method in METHODS if f"{group}-{method}" in result["cells"]]
    cells = {method: result["cells"][f"{group}-{method}"] for method in methods}
    shape = next(iter(cells.values()))
    columns = [
        "pair tokens/s (steady), memory, utilisation",
        *(_heading(cells[method]) for method in methods),
    ]
    lines = [
        f"{what}; {shape['parameters'] / 1e6:.1f} million weights, V = {shape['shape']['vocab']:,}:",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
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
    """Rates, memory, utilisation and how many times as fast our arm of the same definition is."""
    arm = cell["arms"].get(name)
    if arm is None:
        return ""
    if "error" in arm:
        return "does not run"
    work = "least" if name in OURS else "pair"  # what an arm does not compute is not credited to it
    text = (
        f"{arm['whole_rate']['median']:.0f} ({arm['steady_rate']['median']:.0f}), "
        f"{arm['peak_over_base'] / 1e9:.2f} GB, {arm['utilisation'][work]:.0%}"
    )
    if arm["gate"]["verdict"] != "equivalent":
        return f"{text} (not equivalent: {'; '.join(arm['gate']['failed'])})"
    if name in cell["ratios"]:
        against = "" if twin_of(name, method) == "ours" else " ¹"
        ratio = cell["ratios"][name]
        text += f": ours {_times(ratio['whole'])} ({_times(ratio['steady'])}){against}"
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
    missing = {cell.name for cell in sweep()} - {cell["name"] for cell in cells}
    count = f"{everything} cells"
    if missing:
        count = f"{measured} of {everything} cells so far (not yet {', '.join(sorted(missing))})"
    prompts, vocabularies = (
        _listed(sorted({cell[group][key] for cell in cells}))
        for group, key in (("lengths", "prompt"), ("shape", "vocab"))
    )
    memory = " | ".join(f"V = {vocab:,}{', ckpt.' if on else ''}" for vocab, on in MEMORY)
    head = [
        f"A sweep with a smaller body, {count}: prompts of {prompts} tokens, responses of 200, V = "
        f"{vocabularies}, checkpointing off and on, {_steps(cells)} steps of 2 pairs. How many times as fast "
        "ours is over the whole run, and the largest share of the peer's memory that ours takes:",
        "",
        f"| | | cells | slowest | median | fastest | {memory} |",
        "|---" * 10 + "|",
    ]
    return "\n".join([*head, *filter(None, lines)])


def _steps(cells: list[Result]) -> str:
    """Such as "2 to 4"."""
    counts = {cell["steps"] for cell in cells}
    return " to ".join(str(count) for count in sorted({min(counts), max(counts)}))


def _listed(numbers: list[int]) -> str:
    """Such as "50, 200 and 1,000"."""
    *others, last = [f"{number:,}" for number in numbers]
    return f"{', '.join(others)} and {last}" if others else last


def _swept(title: str, name: str, method: str, cells: list[Result]) -> str:
    """One line of the sweep."""
    if not cells:
        return ""
    speed = [cell["ratios"][name]["whole"] for cell in cells]
    kind = "resident" if CONTENDERS[name].framework == "torch" else "memory"
    shares: dict[tuple[int, bool], list[float]] = {}
    for cell in cells:
        of_this = shares.setdefault((cell["shape"]["vocab"], cell["checkpointing"]), [])
        of_this.append(cell["ratios"][name][kind])
    found = [
        title,
        method,
        str(len(cells)),
        *map(_times, (min(speed), median(speed), max(speed))),
        *(_share(max(shares[key])) if key in shares else "" for key in MEMORY),
    ]
    return f"| {' | '.join(found)} |"


def _disclosures() -> str:
    lines = [
        "¹ ORPO's likelihood over prompt and response, as this peer has it, on both sides. mlx-lm-lora "
        "averages the likelihood within rows first; the work is the same as ours over the response.",
        "",
        "What had to be done to the peers, and what to know:",
        *(f"- {arm.title}: {what}." for arm in CONTENDERS.values() for what in arm.disclosed),
        "- Gradients are not clipped in any arm.",
        "- Memory of the MLX arms is MLX's own peak; of torch it is the resident set's, and the sweep's "
        "shares of it are of ours measured in the same way.",
        "- The C++ kernels that MLX compiles at run time on a CPU are in its disk cache before any timing.",
    ]
    return "\n".join(lines)

"""What the steps and choices of a new run mean, in plain words; of single keys see `meanings`.

A key without words there is explained by its description in the configuration's schema.
"""

from __future__ import annotations

from mlx_align import methods
from mlx_align_tui.plain import plain
from mlx_align_tui.screens.new_run.fields import REQUIRED, Spec
from mlx_align_tui.screens.new_run.meanings import KEYS, REWARDS
from mlx_align_tui.screens.new_run.rewards import REWARD

HELP = """\
# New run

Five steps, left to right; <<new.next>> goes on and <<new.back>> goes back, and nothing is final before
Launch. Every field shows what holds if you leave it empty, and where that comes from. <<new.advanced>> shows
every key there is.

The badge at the top says whether the run fits in this machine's memory; it is counted anew, in a process of
its own, whenever something changes. A model that is not on this disk is fetched only after you were
told how large it is and said yes.

Launch starts an engine of its own: once it trains you may leave at any time. <<app.back>> leaves the line one
types in, and then this screen.
"""
STEPS: dict[str, str] = {
    "model": (
        "The model that is taught. It is not changed: a small adapter is trained beside it.\n\n"
        "Take an instruct or chat version; it must have a chat template. A smaller model is quicker, and "
        "shows sooner whether your data teaches what you mean. Quantised models (4 bits) need least memory."
    ),
    "data": (
        "What it learns from: a .jsonl file, or a folder with train.jsonl and perhaps valid.jsonl.\n\n"
        "[b]pairs[/] prompt, chosen, rejected: orpo, dpo, simpo\n"
        "[b]answers[/] prompt, completion or messages: sft\n"
        "[b]questions[/] prompt and perhaps answer: grpo\n\n"
        "A few hundred good rows beat many thousand careless ones. <<new.look>> shows the rows as the model "
        "reads them."
    ),
    "plan": (
        "The memory that the run needs at its worst moment, counted from the model's files and your rows; "
        "most predictions were within 15% on CPUs; on Metal and CUDA that is not verified.\n\n"
        "[b]tight[/] above 80% of what this machine has for it: close other programs.\n"
        "[b]will not fit[/] the engine refuses to start: <<new.use>> takes the cheapest change that helps."
    ),
    "launch": (
        "The run trains in a process of its own: you may leave this program, and come back to it later.\n\n"
        "The command does the very same in a shell; the file does it with `mlx-align METHOD -c FILE`."
    ),
}
"""Step -> what it is about; Textual markup."""

METHODS: dict[str, str] = {
    "orpo": "Teaches the better answer and away from the worse one at once. No reference model, so it is "
    "quick and needs least memory: a good first choice for pairs.",
    "dpo": "Widens the gap between better and worse answers, held to the model as it was at the start. The "
    "best known method; it needs one more pass over the data at the beginning.",
    "simpo": "Like dpo without a reference: answers are compared by their average token, so long ones have "
    "no advantage. Sensitive to the learning rate.",
    "sft": "Imitates your answers, word for word. For a new format or a new tone; it never sees what is "
    "wrong.",
    "grpo": "The model answers each question several times, and rewards say which answers were better. For "
    "what can be checked: numbers, formats, code. Slow, since it samples.",
}
PRESETS: dict[str, str] = {
    "none": "The method's and the model's own defaults.",
    "quick": "A first look in few steps: does this data teach this model anything?",
    "balanced": "The defaults, by name.",
    "thorough": "Three passes with a larger adapter, evaluated often; the best evaluation is kept.",
    "small-mac": "Small groups of short answers, for a Mac with little memory.",
    "r1": "DeepSeek-R1's own numbers, made for training all weights.",
}


def explain(spec: Spec, method: str) -> str:
    """What a field means, as Textual markup.

    Args:
        spec: the field.
        method: the method that is chosen; some keys mean something else for each.
    """
    if spec.reward:
        must = "\n\n[b]*[/] must be set." if spec.empty == REQUIRED else ""
        words = " Put commas between them." if spec.type == "list" else ""
        return f"{_sentence(spec.description)}{words}{must}"
    if spec.key.startswith(REWARD):
        name = spec.key.removeprefix(REWARD)
        return f"{REWARDS.get(name) or _sentence(spec.description)}\n\n{KEYS['rewards']}"
    return KEYS.get(f"{method}.{spec.key}") or KEYS.get(spec.key) or _sentence(spec.description)


def explain_method(name: str) -> str:
    """What a method is for, as Textual markup."""
    method = methods.get(name)
    return f"[b $accent]{method.title}[/]\n{METHODS.get(name, '')}\n\n[$quiet]{method.paper}[/]"


def _sentence(text: str) -> str:
    return f"{plain(text[:1].upper() + text[1:])}."

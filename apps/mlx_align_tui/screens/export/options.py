"""The options of the targets as fields of a form, with what they mean, and as arguments of the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlx_align_cli.saved import USUAL_ADAPTER
from mlx_align_tui.live.targets import KINDS, USUAL, options_of
from mlx_align_tui.screens.new_run.fields import Spec

TYPES = (USUAL, "q8_0", "q6_k", "q5_k_m", "q5_1", "q4_k_m", "q4_0", "f16", "bf16", "f32")
GENERAL = ("verify", "there")
"""Options of every target."""
STEP = "step"
"""What is exported: one choice for all targets."""

CHOICES: dict[str, tuple[str, ...]] = {
    "type": TYPES,
    "dtype": (USUAL, "f16", "bf16", "f32"),
    "quantization": ("kept", "none", "again", "compare"),
    "bits": (USUAL, "8", "6", "5", "4", "3", "2"),
    "public": ("private", "public"),
    "verify": ("yes", "no"),
    "there": ("refuse", "replace"),
}
"""The values of an option; the first is what holds where nothing is chosen."""

FLAGS = {"public": "--public", "verify": "--no-verify", "there": "--force"}

LABELS = {"base_gguf": "base GGUF", "there": "if it exists"}

EXPLANATIONS = {
    "type": "How weights are stored. [b]usual[/] is f16, exact enough for everything and the largest. "
    "[b]q8_0[/] is half of it and hardly differs; [b]q4_k_m[/] is a third, what most people run. "
    "The fewer the bits, the more of what was learnt may drown: the verification tells. "
    "Those with a k in them are made by llama.cpp.",
    "dtype": "How weights without quantisation are stored. [b]usual[/] is what the base has, and f32 for an "
    "adapter of llama.cpp.",
    "base_gguf": "A GGUF of the same base that you have already, as a file or as owner/name/file.gguf on "
    "the hub: its tokenizer and types are kept, and only the weights that were trained change.",
    "quantization": "For a base that MLX quantised. [b]kept[/]: merged layers are quantised as they were. "
    "[b]none[/]: all weights are dissolved, exact and large. [b]again[/]: everything anew. "
    "[b]compare[/] measures each of them and writes nothing.",
    "bits": "Of a new quantisation; 4 is usual, 8 hardly differs from none.",
    "format": "What is put there. A merged model works everywhere; an adapter is small and needs its base.",
    "system": "A system message that every conversation in Ollama begins with; empty for none.",
    "template": "A file with a chat template in Go's language, where the model's own cannot be translated.",
    "parameters": "How Ollama samples, as name=number with blanks between: temperature=0.7 top_p=0.9.",
    "name": "What Ollama shall call it. With a name the model is created there at once; without one only the "
    "folder is made, and the command for it is shown.",
    "repo": "owner/name on the hub, which must be given; in LM Studio publisher/model.",
    "public": "[b]private[/]: only you see it on the hub. [b]public[/]: everybody does.",
    STEP: "Which of the run's checkpoints is exported, for all targets; unless you say otherwise it is "
    f"{USUAL_ADAPTER}.",
    "verify": "The export is loaded by the program that will use it and compared with the model that was "
    "trained, before it gets its name. [b]no[/] leaves that out.",
    "there": "What happens if there is an export of this name already.",
}
"""Option -> what it means, in plain words; Textual markup."""


def choices_of(name: str, option: str) -> tuple[str, ...]:
    """The values of an option of a target; () where it is typed."""
    if option == "format":
        return KINDS[name].formats
    if option == "dtype" and name == "gguf-adapter":
        return (USUAL, "f16")
    return CHOICES.get(option, ())


def specs_of(name: str, values: Mapping[str, str], steps: Sequence[str]) -> list[Spec]:
    """The fields of a target, with what was chosen for it so far, and with the steps there are to export."""
    options = (*options_of(name, values), *((STEP,) if steps else ()), *GENERAL)
    return [
        Spec(
            f"{name}.{LABELS.get(option, option)}",
            "text",
            EXPLANATIONS[option],
            tuple(steps) if option == STEP else choices_of(name, option),
        )
        for option in options
    ]


def option_of(spec: Spec) -> str:
    """The option that a field is for."""
    names = {label: option for option, label in LABELS.items()}
    return names.get(spec.label, spec.label)


def placeholder_of(spec: Spec) -> str:
    """What stands in a field that is typed as long as it is empty."""
    return "owner/name" if option_of(spec) == "repo" else "none"


def arguments_of(name: str, values: Mapping[str, str]) -> list[str]:
    """What was chosen for a target, as arguments of `mlx-align export`."""
    arguments = ["--to", name]
    for option in (*options_of(name, values), *GENERAL):
        text = values.get(option, "")
        if not text or text in choices_of(name, option)[:1]:
            continue
        if option == "parameters":
            arguments += [f"--parameter={each}" for each in text.split()]
        else:
            arguments.append(FLAGS.get(option) or f"--{option.replace('_', '-')}={text}")
    return arguments

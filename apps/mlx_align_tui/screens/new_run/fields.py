"""Which fields the form has: a few for the simple one, every key of the schema for the advanced one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlx_align.combinations import concerns
from mlx_align_cli.schema import Key, all_keys, method_keys
from mlx_align_tui.screens.new_run.draft import CHOSEN, REWARD

SIMPLE = ("optim.lr", "train.epochs", "train.steps", "train.batch_size", "data.max_length", "adapter.rank")
"""What is worth a look in every run, beside the method's own numbers of METHOD."""
METHOD = {
    "orpo": ("method.beta",),
    "dpo": ("method.beta",),
    "simpo": ("method.beta", "method.gamma"),
    "sft": (),
    "grpo": ("method.group_size", "sampling.max_tokens", "sampling.temperature"),
}
_NO_CHOICE = ("unset", "list", "text", "integer", "number", "any")


@dataclass(frozen=True)
class Spec:
    """One field.

    Attributes:
        key: dotted.
        type: its type in words.
        description: from the schema.
        choices: its values where it has but a few, () where it is typed.
        section: what it stands under.
    """

    key: str
    type: str
    description: str
    choices: tuple[str, ...] = ()
    section: str = ""

    @property
    def label(self) -> str:
        """What it is called within its section."""
        return self.key.rpartition(".")[2]


def simple(method: str) -> list[Spec]:
    """The fields that most runs are content with."""
    wanted = (*METHOD.get(method, ()), *SIMPLE)
    found = {spec.key: spec for spec in advanced(method)}
    fields = [found[key] for key in wanted if key in found]
    return [*(Spec(one.key, one.type, one.description, one.choices) for one in fields), *rewards(method)]


def advanced(method: str) -> list[Spec]:
    """Every key that has a meaning for the method, section by section."""
    keys = [*method_keys(method), *(key for key in all_keys() if key.name not in CHOSEN)]
    return [_spec(key) for key in keys if concerns(key.name, method)]


def rewards(method: str) -> list[Spec]:
    """A weight for each reward that needs no options, for a method that samples."""
    from mlx_align.rewards.registry import REWARDS  # loads numpy

    if not concerns("rewards", method):
        return []
    return [
        Spec(f"{REWARD}{name}", "number or empty", reward.title, section="rewards")
        for name, reward in REWARDS.items()
        if not any(field.is_required() for field in reward.options.model_fields.values())
    ]


def _spec(key: Key) -> Spec:
    section = key.name.partition(".")[0]
    return Spec(key.name, key.type, key.description, tuple(_choices(key)), section)


def _choices(key: Key) -> Iterator[str]:
    """The values of a key whose type is nothing but a list of values."""
    parts = key.type.split(" | ")
    if len(parts) > 1 and not any(part.split()[0] in _NO_CHOICE for part in parts):
        yield from parts

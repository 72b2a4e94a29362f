"""Which fields the form has: a few for the simple one, every key of the schema for the advanced one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mlx_align.combinations import concerns
from mlx_align_cli.schema import Key, all_keys, method_keys
from mlx_align_tui.screens.new_run.draft import CHOSEN
from mlx_align_tui.screens.new_run.rewards import REWARD, Option, options, text_of

SIMPLE = ("optim.lr", "train.epochs", "train.steps", "train.batch_size", "data.max_length", "adapter.rank")
"""What is worth a look in every run, beside the method's own numbers of METHOD."""
METHOD = {
    "orpo": ("method.beta",),
    "dpo": ("method.beta",),
    "simpo": ("method.beta", "method.gamma"),
    "sft": (),
    "grpo": ("method.group_size", "sampling.max_tokens", "sampling.temperature"),
}
REQUIRED, UNUSED = "required", "not used"
"""What a field shows that must be filled, and the weight of a reward that is not chosen."""
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
        default: what holds where nothing else says so, as text.
        empty: what is shown where nothing holds.
    """

    key: str
    type: str
    description: str
    choices: tuple[str, ...] = ()
    section: str = ""
    default: str = ""
    empty: str = "unset"

    @property
    def label(self) -> str:
        """What it is called within its section; a reward's options are set in, and * must be set."""
        name = self.key.rpartition(".")[2]
        return f"  {name}{' *' if self.empty == REQUIRED else ''}" if self.reward else name

    @property
    def reward(self) -> str:
        """The reward that it is an option of; "" for none."""
        section, _, rest = self.key.partition(".")
        name, dot, _ = rest.partition(".")
        return name if f"{section}." == REWARD and dot else ""


def simple(method: str) -> list[Spec]:
    """The fields that most runs are content with."""
    wanted = (*METHOD.get(method, ()), *SIMPLE)
    found = {spec.key: spec for spec in advanced(method)}
    fields = [found[key] for key in wanted if key in found]
    return [*rewards(method), *(replace(one, section="") for one in fields)]


def advanced(method: str) -> list[Spec]:
    """Every key that has a meaning for the method, section by section."""
    keys = [*method_keys(method), *(key for key in all_keys() if key.name not in CHOSEN)]
    return [*rewards(method), *(_spec(key) for key in keys if concerns(key.name, method))]


def rewards(method: str) -> list[Spec]:
    """A weight for each reward, and its options below it, for a method that samples."""
    from mlx_align.rewards.registry import REWARDS  # loads numpy

    if not concerns("rewards", method):
        return []
    found = []
    for name, reward in REWARDS.items():
        found.append(Spec(REWARD + name, "a number", reward.title, section="rewards", empty=UNUSED))
        found += [_option(name, option) for option in options(name)]
    return found


def _option(reward: str, option: Option) -> Spec:
    choices = tuple(_choices(option.type))
    return Spec(
        f"{REWARD}{reward}.{option.name}",
        option.type,
        option.description,
        choices,
        "rewards",
        option.default,
        REQUIRED if option.required else "unset",
    )


def _spec(key: Key) -> Spec:
    section = key.name.partition(".")[0]
    default = text_of(key.default)
    return Spec(key.name, key.type, key.description, tuple(_choices(key.type)), section, default)


def _choices(kind: str) -> Iterator[str]:
    """The values of a key whose type is nothing but a list of values."""
    parts = kind.split(" | ")
    if len(parts) > 1 and not any(part.split()[0] in _NO_CHOICE for part in parts):
        yield from parts

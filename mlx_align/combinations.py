"""Values of a configuration that are right each for itself and wrong together."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NoReturn

from pydantic import ValidationError

from mlx_align import methods
from mlx_align.config import RunConfig
from mlx_align.errors import ConfigError
from mlx_align.methods.grpo import GrpoHyperparameters
from mlx_align.wording import plain

SAMPLING = ("sampling.", "rollout.", "rewards", "train.branches_at_once", "eval.pass_k")
"""Keys that mean something only where the policy answers prompts while it trains."""
NO_SAMPLING = ("train.tokens_per_batch",)
"""Keys that mean something only where the answers are in the data."""

COMPARED = "log-probabilities with dropout would be compared with ones without it"
"""Why grpo does not go together with dropout."""
UNCOMPARED = "keep rollout.updates = 1, method.num_iterations = 1 and method.beta = 0"
"""The settings with which it does."""


def concerns(key: str, method: str) -> bool:
    """Whether a dotted key has a meaning for a method."""
    sampled = methods.get(method).rows == "prompt"
    return not key.startswith(NO_SAMPLING if sampled else SAMPLING)


def metrics_of(method: str) -> tuple[str, ...]:
    """What `eval.metric` may be for a method."""
    match methods.get(method).rows:
        case "completion":
            return ("loss",)
        case "pair":
            return ("loss", "accuracy", "margin")
        case "prompt":
            return ("reward",)


def compares(config: RunConfig) -> bool:
    """Whether a method that samples compares log-probabilities with ones that were scored before the update.

    With dropout in the former alone, ratios differ from 1 although the policy has not moved.
    """
    if methods.get(config.method.name).rows != "prompt":
        return False
    hp = GrpoHyperparameters(**config.method.hyperparameters)
    return hp.beta > 0 or config.rollout.updates * hp.num_iterations > 1


def check_combinations(config: RunConfig, origins: Mapping[str, str], asked: AbstractSet[str]) -> None:
    """Refuse what cannot hold together.

    Args:
        config: each of its values is right for itself.
        origins: dotted key -> the layer its value came from.
        asked: dotted keys that a person set for this very run.

    Raises:
        ConfigError: it names the key and its layer.
    """
    check = _Check(config, origins)
    if config.eval.patience is not None and config.eval.every == 0:
        check.refuse(
            "eval.patience", "without evaluations there is nothing to be patient about", "Set eval.every."
        )
    if config.adapter.start is not None:
        for key in ("type", "rank", "scale", "modules", "layers", "dropout"):
            if f"adapter.{key}" in asked:
                message = "the starting adapter decides this already"
                check.refuse(f"adapter.{key}", message, f"Leave adapter.{key} out.")
    name, metric = config.method.name, config.eval.metric
    if metric not in (known := metrics_of(name)):
        check.refuse("eval.metric", f"{name} has no '{metric}'", f"Use eval.metric={' or '.join(known)}.")
    for key in sorted(key for key in asked if not concerns(key, name)):
        if origins.get(key) is not None and _value(config, key) is not None:
            check.refuse(key, f"it has no meaning for {name}", f"Leave {key} out.")
    if methods.get(name).rows == "prompt":
        check.sampling()


def _value(config: RunConfig, key: str) -> object:
    """A key's value; the other key of an exclusive pair is unset by the layer that sets this one."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name) if name else getattr(config, section)


@dataclass(frozen=True)
class _Check:
    config: RunConfig
    origins: Mapping[str, str]

    def refuse(self, key: str, message: str, hint: str) -> NoReturn:
        raise ConfigError(message, where=f"{key} ({self.origins.get(key, 'default')})", hint=hint)

    def sampling(self) -> None:
        """What a method needs that samples its answers."""
        from mlx_align.rewards import make_specs  # loads numpy, which `--help` does without

        config, longest = self.config, self.config.sampling.max_tokens
        if not config.rewards:
            message = f"{config.method.name} needs a reward"
            self.refuse("rewards", message, "Give one, for example --reward numeric.")
        make_specs([reward.model_dump() for reward in config.rewards])
        if longest >= config.data.max_length:
            message = f"data.max_length = {config.data.max_length} leaves no room for a prompt beside them"
            self.refuse("sampling.max_tokens", message, "Make it smaller, or data.max_length larger.")
        if config.adapter.start is None and config.adapter.dropout and compares(config):
            self.refuse("adapter.dropout", COMPARED, f"Set it to 0, or {UNCOMPARED}.")
        hp = GrpoHyperparameters(**config.method.hyperparameters)
        if (config.train.branches_at_once or 0) > hp.group_size:
            message = f"a group has only {hp.group_size} completions"
            self.refuse(
                "train.branches_at_once", message, "Leave it out: the whole group is then read at once."
            )
        try:
            hp.for_sampling(longest)
        except ValidationError as error:
            message = plain(error.errors())
            self.refuse("sampling.max_tokens", message, "Make it larger, or method.overlong_buffer smaller.")

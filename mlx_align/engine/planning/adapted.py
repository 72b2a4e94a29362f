"""What an adapter adds to a model, in numbers that a footprint is made of."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_align.backends.modules import GROUPS, choose_modules
from mlx_align.config import AdapterConfig
from mlx_align.engine.planning.facts import Linear, ModelFacts
from mlx_align.errors import UsageError


@dataclass(frozen=True)
class Adapter:
    """What an adapter adds to the layers that it is on.

    Attributes:
        parameters: how many numbers are trained.
        expert_parameters: those of them that belong to experts.
        layers: the last so many are adapted; no derivative is needed below them.
        ranks: r of all modules of a layer, of the chosen experts only.
        inputs, outputs: widths of all modules of a layer, likewise.
        expert_inputs: those of `inputs` that experts read.
        attention, mlp: which halves of a layer have adapted modules.
        dropout: whether inputs are dropped out first.
        dora: whether columns are rescaled (DoRA).
        largest: numbers in the largest adapted matrix.
        matrices: in all adapted matrices of a layer.
    """

    parameters: int
    expert_parameters: int
    layers: int
    ranks: int
    inputs: int
    outputs: int
    expert_inputs: int
    attention: bool
    mlp: bool
    dropout: bool
    dora: bool
    largest: int
    matrices: int

    @classmethod
    def on(cls, model: ModelFacts, config: AdapterConfig) -> Adapter:
        """The adapter that a configuration puts on a model.

        Raises:
            UsageError: the model has no such modules.
        """
        count = model.layers if config.layers == "all" else min(config.layers, model.layers)
        first = model.layers - count
        linears = [linear for linear in model.linears if linear.layer >= first]
        if not linears:
            raise UsageError("the model's layers have no linear modules", where="adapter.modules")
        keys = set(_modules(linears, config))
        adapted = [linear for linear in linears if linear.name in keys]
        one = [linear for linear in adapted if linear.layer == adapted[-1].layer]
        times = [model.chosen if x.copies > 1 else 1 for x in one]
        return cls(
            parameters=sum(_trained(x, config) for x in adapted),
            expert_parameters=sum(_trained(x, config) for x in adapted if x.copies > 1),
            layers=count,
            ranks=config.rank * sum(times),
            inputs=sum(x.inputs * n for x, n in zip(one, times, strict=True)),
            outputs=sum(x.outputs * n for x, n in zip(one, times, strict=True)),
            expert_inputs=sum(x.inputs * model.chosen for x in one if x.copies > 1),
            attention=any(_in_attention(x.name) for x in one),
            mlp=any(not _in_attention(x.name) for x in one),
            dropout=config.dropout > 0,
            dora=config.type == "dora",
            largest=max(x.inputs * x.outputs for x in one),
            matrices=sum(x.copies * x.inputs * x.outputs for x in one),
        )


def _trained(linear: Linear, config: AdapterConfig) -> int:
    """Numbers that an adapter has for a module: A, B and DoRA's magnitude."""
    magnitude = linear.outputs if config.type == "dora" else 0
    return linear.copies * (config.rank * (linear.inputs + linear.outputs) + magnitude)


def _modules(linears: list[Linear], config: AdapterConfig) -> list[str]:
    names = [linear.name for linear in linears]
    try:
        return choose_modules(names, config.modules)
    except UsageError:
        # mlx-lm renames some modules when it loads a model; a name that is wrong it will refuse itself.
        return sorted(set(names))


def _in_attention(name: str) -> bool:
    return any(mark in name for mark in GROUPS["attention"])

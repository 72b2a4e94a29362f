"""`mlx-align plan`: how much memory a run would need, and whether this machine has it."""

from __future__ import annotations

import json as jsonlib
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_align import methods
from mlx_align.errors import WontFitError
from mlx_align_cli import options

if TYPE_CHECKING:
    from mlx_align.engine.planning import Forecast, Plan

METHOD = typer.Option(metavar="|".join(methods.METHODS), help="The training method (default: orpo).")
PARTS = {
    "weights": "the base model",
    "adapter": "what is trained, in float32",
    "optimiser": "what the optimiser remembers",
    "gradient": "the adapter's",
    "activations": "kept for the backward pass",
    "keys": "of prompts and answers, for attention",
    "scores": "kept for the backward pass",
    "head": "the scored tokens' features, and some of their logits",
    "work": "what is computed with at that moment",
}
NAMES = {"keys": "keys and values", "scores": "attention scores"}
MOMENTS = {
    "loss": "when the loss is computed",
    "backward": "when the backward pass begins",
    "prompts": "in the backward pass, at the prompts",
    "update": "when the adapter is updated",
    "evaluation": "when held-out rows are scored",
    "sampling": "when answers are sampled",
}
VERDICTS = {
    "fits": "it fits",
    "tight": "it is tight",
    "will not fit": "it will not fit",
    "unknown": "how much this machine has is not known",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    epilog = options.examples(
        "mlx-align plan",
        "mlx-align plan Qwen/Qwen3-0.6B rows.jsonl --method dpo",
        "mlx-align plan Qwen/Qwen3-0.6B rows.jsonl --set backend.checkpointing=layers",
    )
    app.command(rich_help_panel="Setup", epilog=epilog)(plan)


def plan(
    model: options.Model = None,
    data: options.Data = None,
    method: Annotated[str | None, METHOD] = None,
    config: options.ConfigFile = None,
    set_: options.Set = None,
    preset: options.Preset = None,
    batch_size: options.BatchSize = None,
    tokens_per_batch: options.TokensPerBatch = None,
    reward: options.Rewards = None,
    device: options.Device = None,
    json: options.AsJson = False,
) -> None:
    """Say how much memory a run would need and whether it fits; nothing is loaded or trained.

    Of a model that is not on this disk yet, only configuration, tokenizer and the headers of its weights are
    fetched.

    It exits with 4 if the run will not fit. How long a run takes is known after its first steps only: the run
    itself shows it then.
    """
    from mlx_align import api
    from mlx_align.engine.tokenizer import spare_torch

    named = {
        "model.path": ("MODEL", model),
        "data.path": ("DATA", data),
        "train.batch_size": ("--batch-size", batch_size),
        "train.tokens_per_batch": ("--tokens-per-batch", tokens_per_batch),
        "rewards": ("--reward", options.reward_tables(reward)),
        "backend.device": ("--device", device),
    }
    resolved = options.resolved(method, options.merge(named, set_), config, preset)
    spare_torch(resolved.config.backend.name)
    found = api.estimate(resolved)
    if json:
        print(jsonlib.dumps(_as_json(found), indent=2))
    else:
        _print(found)
    if found.plan.verdict == "will not fit":
        raise typer.Exit(WontFitError.exit_code)


def _as_json(found: Forecast) -> dict[str, object]:
    shape, advice = found.plan.shape, found.advice
    event = found.event.model_dump(mode="json", exclude={"v", "seq", "attempt", "t", "type", "advice"})
    return {
        **event,
        "batch": None if shape is None else vars(shape),
        "advice": None
        if advice is None
        else {
            "settings": advice.settings,
            "quantise": advice.quantise,
            "total": advice.plan.total,
            "lost_rows": advice.lost,
            "text": found.remedy,
        },
    }


def _print(found: Forecast) -> None:
    from rich.text import Text

    from mlx_align_cli.display.listing import print_table
    from mlx_align_cli.display.text import size

    plan = found.plan
    rows: list[list[str | Text]] = [
        [NAMES.get(part, part), size(value), Text(PARTS[part], style="dim")]
        for part, value in plan.footprint.parts.items()
        if value
    ]
    rows.append([Text("together", style="bold"), Text(size(plan.total), style="bold"), _moment(plan)])
    if plan.available:
        rows.append(["this machine", size(plan.available), Text("for a run, without what the system needs")])
    print_table(("memory", "", ""), rows)
    share = f": {_share(plan.total / plan.available)} of what there is" if plan.available else ""
    print(f"\n{VERDICTS[plan.verdict]}{share}")
    if plan.verdict in ("tight", "will not fit"):
        print(found.remedy)


def _share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else "less than 1%"


def _moment(plan: Plan) -> str:
    shape = plan.shape
    batch = "" if shape is None else f", {shape.rows} x ({shape.prompt} + {shape.branch}) tokens"
    return f"at most, {MOMENTS[plan.footprint.moment]}{batch}"

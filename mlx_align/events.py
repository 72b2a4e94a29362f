"""What a run says while it runs: frozen event types, one JSON line each.

The engine appends them to `events.jsonl`; the command line, the terminal UI, `--json` and reports all read
the same lines, and `run_state` folds them. Readers ignore types and fields they do not know, so that an older
reader can follow a newer engine.

Every event carries `v` (format version), `seq` (counts from 0 through all attempts), `attempt` (1, then
one more for each resume) and `t` (seconds since the epoch). A number that is not finite is written as null.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

VERSION = 1
Number = float | None
"""A measured value; None stands for "not finite" or "not measured"."""
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""A whole number that a reader can keep in eight bytes."""


class Event(BaseModel):
    """What every event has."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    v: Whole = VERSION
    seq: Whole = -1
    attempt: Whole = 1
    t: float = 0.0


class RunStarted(Event):
    """An attempt began. `resumed_from` is the step of the checkpoint it continues, None for a new run."""

    type: Literal["run_started"] = "run_started"
    method: str
    model: str
    data: str
    backend: str
    device: str
    pid: int
    total_steps: int
    train_rows: int
    valid_rows: int
    trainable_parameters: int
    resumed_from: int | None = None


class Phase(Event):
    """What the engine does now, with progress where it can be counted (`total` 0: it cannot)."""

    type: Literal["phase"] = "phase"
    name: Literal[
        "loading", "preparing", "reference", "training", "evaluating", "sampling", "scoring", "saving"
    ]
    detail: str = ""
    done: int = 0
    total: int = 0


class Step(Event):
    """One optimiser update. `tokens` counts real tokens, prompts once, and `padded` the same with the
    padding of their batches' shapes; `skipped`: not finite, not applied.
    """

    type: Literal["step"] = "step"
    step: Whole
    epoch: float
    loss: Number
    learning_rate: float
    grad_norm: Number
    metrics: dict[str, Number] = {}
    tokens: Whole = 0
    padded: Whole = 0
    seconds: float = 0.0
    skipped: bool = False


class RewardFacts(BaseModel):
    """One reward over a rollout: mean and standard deviation of what is known, and how often it failed."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    mean: Number
    std: Number
    failed: int = 0


class Scored(BaseModel):
    """One completion with its rewards, and `total`, their weighted sum."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    prompt: str
    completion: str
    rewards: dict[str, Number]
    total: Number
    finished: bool = True


class Rollout(Event):
    """What was sampled, to be learnt from by update `step` and those that follow; `number` counts from 0.

    `reward` is the weighted sum of all rewards. `spread` is the mean deviation of the rewards inside a group,
    `advantage_std` the deviation of all advantages; `no_signal` is the share of groups whose rewards are all
    equal, `truncated` that of completions that were cut off. `tokens` were sampled in `seconds`, groups that
    were replaced (`refilled` of them) included, and scored in `scoring_seconds`.
    """

    type: Literal["rollout"] = "rollout"
    step: int
    number: int
    prompts: int
    completions: int
    reward: RewardFacts
    rewards: dict[str, RewardFacts]
    spread: Number
    advantage_std: Number
    no_signal: float
    refilled: int = 0
    length_mean: float
    length_max: int
    truncated: float
    tokens: int
    seconds: float
    scoring_seconds: float
    best: Scored | None = None
    worst: Scored | None = None


class Eval(Event):
    """Metrics over the held-out rows; `best` says whether this is the best evaluation so far."""

    type: Literal["eval"] = "eval"
    step: int
    rows: int
    metrics: dict[str, Number]
    best: bool = False
    seconds: float = 0.0


class Completion(BaseModel):
    """One held-out prompt and what the model says to it now (greedy decoding).

    `chosen` and `rejected` are the data's answers; where there is only a right answer, `chosen` is that.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: str
    completion: str
    chosen: str | None = None
    rejected: str | None = None
    finished: bool = True


class Sample(Event):
    """Completions for the run's fixed prompts at one step; step 0 is the model before training."""

    type: Literal["sample"] = "sample"
    step: int
    completions: tuple[Completion, ...]


class Checkpoint(Event):
    """A checkpoint was written; `path` is relative to the run directory."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    best: bool = False


class Memory(Event):
    """Memory in bytes as the backend reports it; `limit` is what this machine can give. `active` and `limit`
    are 0 if unknown. `traces` counts the computation graphs that were traced for a shape, 0 where the backend
    traces none.
    """

    type: Literal["memory"] = "memory"
    step: int
    active: int
    peak: int
    limit: int = 0
    traces: int = 0


class Plan(Event):
    """What the run will need at its worst `moment`, before weights are loaded: bytes by part and in `total`.
    `available` is what this machine has for it, 0 if unknown; `advice` the cheapest change where it is tight.
    """

    type: Literal["plan"] = "plan"
    moment: str
    parts: dict[str, int]
    total: int
    available: int = 0
    verdict: Literal["fits", "tight", "will not fit", "unknown"]
    advice: str | None = None


class Alert(Event):
    """Something a person should know. `rows` names the data rows that are concerned."""

    type: Literal["alert"] = "alert"
    level: Literal["info", "warning", "error"] = "warning"
    code: str
    message: str
    step: int = 0
    rows: tuple[str, ...] = ()


class Heartbeat(Event):
    """The engine is alive though it has nothing to say."""

    type: Literal["heartbeat"] = "heartbeat"
    step: int = 0


class RunFinished(Event):
    """Training ended as planned, or early because it no longer improved (`reason`), after so many seconds of
    training over all attempts.

    `adapter` is relative to the run directory.
    """

    type: Literal["run_finished"] = "run_finished"
    step: int
    reason: str
    adapter: str
    best_step: int | None = None
    seconds: float = 0.0


class RunStopped(Event):
    """The run was stopped on request; everything needed to resume is in `checkpoint`."""

    type: Literal["run_stopped"] = "run_stopped"
    step: int
    checkpoint: str


class RunFailed(Event):
    """The run ended with an error; `exit_code` is the engine's, as documented in `errors`."""

    type: Literal["run_failed"] = "run_failed"
    step: int
    kind: str
    message: str
    where: str | None = None
    hint: str | None = None
    exit_code: int = 1


AnyEvent = Annotated[
    RunStarted | Phase | Step | Rollout | Eval | Sample | Checkpoint | Memory | Plan | Alert | Heartbeat
    | RunFinished | RunStopped | RunFailed,
    Field(discriminator="type"),
]  # fmt: skip
_validator = TypeAdapter[Any](AnyEvent).validator


def parse(line: str | bytes) -> Event | None:
    """The event in one JSON line; None for a line of an unknown type or an unreadable one."""
    try:
        event: Event = _validator.validate_json(line)
    except ValidationError:
        return None
    return event

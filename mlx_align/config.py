"""The configuration of a run: frozen models.

This file says which keys there are, what they mean and what they may be. `settings.py` decides which
layer (flag, environment, file, preset, ...) each value comes from, `combinations.py` which values do not
go together; `toml.py` reads and writes files.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EXCLUSIVE = (("train.epochs", "train.steps"), ("train.batch_size", "train.tokens_per_batch"))
"""Keys of which a run has exactly one. The first has a default, which the second takes away by being set."""

PATHS = ("model.path", "data.path", "adapter.start", "runs.dir", "runs.cache")
"""Keys that say where a person keeps something; `model.path` may be a hub id instead."""
REWARD_PATHS = ("name", "function", "model")
"""The same of a [[rewards]] table, where `prepare` makes every path a whole one."""


class Section(BaseModel):
    """A group of keys: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MethodConfig(Section):
    """The method, and its own hyperparameters beside its name (each method file says which)."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str = Field(default="orpo", description="sft, orpo, dpo, simpo or grpo")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Everything in the section but the name."""
        return dict(self.model_extra or {})


class ModelConfig(Section):
    """The base model."""

    path: str = Field(
        default="tiny-chat", min_length=1, description="'tiny-chat', a local folder or a Hugging Face id"
    )
    revision: str | None = Field(
        default=None, description="commit, tag or branch on the Hugging Face hub; not for local folders"
    )


class DataConfig(Section):
    """Where the rows come from and how they become tokens."""

    path: str = Field(
        default="sample",
        min_length=1,
        description="'sample', a .jsonl file, or a folder with train.jsonl and, if it has one, valid.jsonl",
    )
    max_length: int = Field(default=2048, ge=8, description="longest prompt plus response, in tokens")
    too_long: Literal["drop", "truncate-prompt", "error"] = Field(
        default="drop",
        description="what to do with a longer row: leave it out, cut its prompt's beginning (while 32 tokens "
        "of it stay), or refuse",
    )
    valid_fraction: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="share of rows held out where the data has no valid.jsonl (or validation.jsonl)",
    )


class AdapterConfig(Section):
    """The trained weights: a low-rank adapter on chosen linear layers."""

    type: Literal["lora", "dora"] = Field(
        default="lora", description="LoRA (arXiv:2106.09685) or DoRA (arXiv:2402.09353)"
    )
    rank: int = Field(default=16, ge=1, description="rank r of the update scale * B A")
    scale: float = Field(
        default=2.0, gt=0, description="factor on the update, as in mlx-lm; it is PEFT's alpha / r"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on the adapter's input")
    modules: Literal["all", "attention", "mlp"] | tuple[str, ...] = Field(
        default="all",
        description="'all' linear layers, 'attention', 'mlp', or names such as 'self_attn.q_proj'",
    )
    layers: int | Literal["all"] = Field(default="all", description="adapt only the last N layers")
    start: str | None = Field(
        default=None,
        description="continue from this adapter folder (mlx-lm's format); its shape then decides the rest",
    )

    @model_validator(mode="after")
    def _layers_positive(self) -> AdapterConfig:
        if isinstance(self.layers, int) and self.layers < 1:
            raise ValueError("layers must be 'all' or at least 1")
        if isinstance(self.modules, tuple) and not self.modules:
            raise ValueError("modules must name at least one module")
        return self


class OptimConfig(Section):
    """The optimiser and its schedule."""

    name: Literal["adamw", "adam", "adafactor", "lion", "muon"] = Field(
        default="adamw", description="the optimiser, from mlx.optimizers; Adam's kin with bias correction"
    )
    lr: float = Field(default=5e-5, gt=0, description="peak learning rate")
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="decoupled for adamw and lion, an L2 penalty for muon, as mlx.optimizers has them",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="cosine", description="how the rate falls after the warmup"
    )
    warmup: float = Field(
        default=0.05, ge=0, lt=1, description="share of all steps in which the rate rises linearly"
    )
    min_lr: float = Field(
        default=0.0, ge=0, le=1, description="where a linear or cosine schedule ends, as a share of lr"
    )
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="clip the gradient's global norm to this; 0 means no clipping"
    )

    @model_validator(mode="after")
    def _no_ignored_values(self) -> OptimConfig:
        if self.weight_decay and self.name in ("adam", "adafactor"):
            raise ValueError(f"weight_decay has no meaning with the optimiser '{self.name}'; use adamw")
        if self.min_lr and self.schedule == "constant":
            raise ValueError("min_lr has no meaning with schedule 'constant'")
        return self


class SamplingConfig(Section):
    """How grpo draws the completions that it learns from."""

    temperature: float = Field(
        default=1.0, gt=0, description="divides the logits, in sampling and in the loss alike"
    )
    top_p: float = Field(default=1.0, gt=0, le=1, description="nucleus sampling (not in the loss); 1: off")
    top_k: int = Field(default=0, ge=0, description="only the k likeliest tokens (not in the loss); 0: off")
    min_p: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="only tokens at least so likely, as a share of the likeliest's (not in the loss); 0: off",
    )
    repetition_penalty: float = Field(
        default=1.0,
        gt=0,
        description="tokens that were there already become less likely (not in the loss); 1: off",
    )
    stop: tuple[str, ...] = Field(
        default=(), description="a completion also ends where it comes to one of these texts"
    )
    max_tokens: int = Field(default=256, ge=1, description="longest completion, in tokens")

    @model_validator(mode="after")
    def _stops_say_something(self) -> SamplingConfig:
        if not all(self.stop):
            raise ValueError("stop has an empty text, which would end every completion at once")
        return self

    @property
    def filters(self) -> tuple[str, ...]:
        """Those that are on of the keys by which completions are drawn and which the loss leaves out."""
        off = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        return tuple(name for name, value in off.items() if getattr(self, name) != value)


class RolloutConfig(Section):
    """How much grpo samples before it trains on it."""

    updates: int = Field(
        default=1,
        ge=1,
        description="optimiser updates that one rollout is divided into; it has train.batch_size * "
        "train.accumulate prompts for each",
    )


class RewardConfig(BaseModel):
    """One reward; its own options stand beside its name (each reward's file says which)."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str = Field(min_length=1, description="a reward's name, or file.py:function")
    weight: float = Field(default=1.0, description="factor on it in the sum of all rewards")

    @property
    def options(self) -> dict[str, Any]:
        """Everything in the table but name and weight."""
        return dict(self.model_extra or {})


class TrainConfig(Section):
    """How long, and in which portions."""

    epochs: float | None = Field(default=1.0, gt=0, description="passes over the data; or set steps")
    steps: int | None = Field(default=None, ge=1, description="optimiser updates; or set epochs")
    batch_size: int | None = Field(
        default=4, ge=1, description="rows in one forward and backward pass; or set tokens_per_batch"
    )
    tokens_per_batch: int | None = Field(
        default=None,
        ge=1,
        description="at most so many tokens, padding included, in one forward and backward pass: each prompt "
        "once plus all its branches; or set batch_size",
    )
    accumulate: int = Field(default=1, ge=1, description="micro-batches in one optimiser update")
    branches_at_once: int | None = Field(
        default=None,
        ge=1,
        description="grpo: so many completions of a group in one forward and backward pass, to save memory; "
        "unset: the whole group",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="seeds adapter, order of rows, dropout and sampling"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> TrainConfig:
        for pair in EXCLUSIVE:
            first, second = (key.removeprefix("train.") for key in pair)
            if (getattr(self, first) is None) == (getattr(self, second) is None):
                raise ValueError(f"set exactly one of {first} and {second}")
        return self


class EvalConfig(Section):
    """Evaluation on held-out rows, and the answers shown from step 0 on."""

    every: int = Field(
        default=50, ge=0, description="evaluate every N steps and at the end; 0: only at start and end"
    )
    rows: int = Field(default=256, ge=1, description="at most so many held-out rows")
    samples: int = Field(default=8, ge=0, description="held-out prompts to answer at each evaluation")
    max_tokens: int = Field(default=128, ge=1, description="longest sampled answer, in tokens")
    metric: Literal["loss", "accuracy", "margin", "reward"] = Field(
        default="loss", description="what 'best' means; sft has only loss, grpo only reward"
    )
    pass_k: int = Field(
        default=0,
        ge=0,
        description="grpo: also sample each held-out prompt k times, and estimate how often one of k is "
        "right; 0: do not",
    )
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many evaluations without a new best; unset: never"
    )


class CheckpointConfig(Section):
    """When to save, and what to keep."""

    every: int = Field(default=50, ge=1, description="save every N steps (and at every stop and the end)")
    keep: int = Field(default=2, ge=1, description="newest checkpoints to keep; the best is kept besides")


class GuardConfig(Section):
    """What is watched while training."""

    nonfinite_limit: int = Field(
        default=5, ge=1, description="stop after so many updates in a row with a non-finite loss or gradient"
    )
    memory: Literal["refuse", "warn"] = Field(
        default="refuse", description="what to do with a run that will not fit in memory (see plan); mlx only"
    )


class BackendConfig(Section):
    """The framework and the device."""

    name: Literal["mlx", "torch"] = Field(default="mlx", description="the framework that trains")
    device: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(
        default="auto",
        description="auto takes the GPU where there is one; gpu insists on it; cuda and mps name its kind",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: the model's own on a GPU, float32 on a CPU"
    )
    quantize: Literal["none", "nf4"] = Field(
        default="none",
        description="nf4 loads the base in 4 bits (QLoRA, arXiv:2305.14314); torch on CUDA only",
    )
    checkpointing: Literal["none", "attention", "layers"] = Field(
        default="none",
        description="compute a part of the forward pass twice to save memory: the attention scores (mlx "
        "only), or everything inside the layers",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="mx.compile the training step: auto means on a GPU; mlx only"
    )

    @model_validator(mode="after")
    def _four_bits_need_cuda(self) -> BackendConfig:
        if self.quantize != "none" and (self.name != "torch" or self.device in ("cpu", "mps")):
            raise ValueError(
                f"quantize '{self.quantize}' needs name 'torch' and device 'cuda'; for mlx give a model that "
                "is quantised already"
            )
        return self

    @model_validator(mode="after")
    def _mlx_only(self) -> BackendConfig:
        if self.name != "mlx" and self.compile != "auto":
            raise ValueError(f"compile has no meaning with name '{self.name}'")
        if self.name != "mlx" and self.checkpointing == "attention":
            raise ValueError(f"checkpointing 'attention' needs name 'mlx'; '{self.name}' has 'layers'")
        return self


class RunsConfig(Section):
    """Where runs are kept, and what they share."""

    dir: str = Field(default="runs", min_length=1, description="the folder that holds run directories")
    cache: str | None = Field(
        default=None,
        min_length=1,
        description="the folder for what later runs can use again; unset: in the user's cache folder",
    )


class RunConfig(Section):
    """Everything a run needs to be repeated."""

    method: MethodConfig = MethodConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    adapter: AdapterConfig = AdapterConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    sampling: SamplingConfig = SamplingConfig()
    rollout: RolloutConfig = RolloutConfig()
    rewards: tuple[RewardConfig, ...] = Field(
        default=(), description="grpo: what completions are scored by, as [[rewards]] tables"
    )
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig = GuardConfig()
    backend: BackendConfig = BackendConfig()
    runs: RunsConfig = RunsConfig()

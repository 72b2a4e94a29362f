"""The memory planner against what MLX measures: `make bench-memory` writes results/memory.json.

Each configuration gets a small random model in a folder of its own. The planner sees that folder and the
shape of a batch; a policy then trains on such a batch, or evaluates it or answers its prompts, and
`mx.get_peak_memory` says how much that took, with the weights.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np

from mlx_align import backends, methods
from mlx_align.backends.base import Objective, Policy, Sampling
from mlx_align.batch import Batch
from mlx_align.config import RunConfig
from mlx_align.data import Example, Shape, collate
from mlx_align.engine.planning import Adapter, Arithmetic, Footprint, read_facts
from mlx_align.methods import Hyperparameters
from tests.bench.provenance import RESULTS, provenance, write

RESULT = "memory.json"
WITHIN = 0.15
"""How far a prediction may be from the measured peak."""
STEPS = 3
TIMES = 3
"""How often a batch of several rows is trained: its lanes meet otherwise each time, and the median counts."""

QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "intermediate_size": 768,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 1024,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
}
OTHERS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {"model_type": "llama"},
    "gemma3": {
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 32,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "rope_local_base_freq": 1e4,
        "rope_global_base_freq": 1e4,
    },
    "gemma2": {
        "model_type": "gemma2",
        "query_pre_attn_scalar": 32,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
    },
    "qwen3-moe": {
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 384,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
}


@dataclass(frozen=True)
class Case:
    """One configuration.

    Attributes:
        method: its name.
        rows: B.
        prompt, branch: tokens of every prompt and of every branch.
        checkpointing: `backend.checkpointing`.
        vocabulary: V.
        architecture: a key of OTHERS.
        bits: of the base's weights; 32 is float32, 16 bfloat16, 4 quantised.
        dtype: `backend.dtype`; None: bfloat16 for 16 bits, else float32.
        model: further settings of config.json.
        settings: tables of the run's configuration.
        doing: what is measured: training, or what comes between updates, evaluating the batch, or sampling
            `samples` answers of `branch` tokens to each of its prompts.
        samples: how many answers to each prompt.
        compiled: `backend.compile`.
    """

    method: str = "orpo"
    rows: int = 2
    prompt: int = 128
    branch: int = 128
    checkpointing: str = "none"
    vocabulary: int = 1024
    architecture: str = "qwen3"
    bits: int = 32
    dtype: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    doing: Literal["training", "evaluation", "sampling"] = "training"
    samples: int = 1
    compiled: bool = False

    @property
    def name(self) -> str:
        of_samples = f", {self.samples} samples" if self.doing == "sampling" else ""
        parts = [self.method] if self.doing == "training" else [f"{self.method}'s {self.doing}{of_samples}"]
        parts += [f"{self.rows} x ({self.prompt} + {self.branch})", self.checkpointing]
        parts += [f"V {self.vocabulary:,}"]
        parts += [self.architecture] if self.architecture != "qwen3" else []
        parts += [f"{self.bits} bits"] if self.bits != 32 else []
        parts += [self.dtype] if self.dtype else []
        parts += ["compiled"] if self.compiled else []
        parts += [f"{key} {value}" for key, value in (self.model | self.settings).items()]
        return ", ".join(parts)

    @property
    def config(self) -> RunConfig:
        dtype = self.dtype or ("bfloat16" if self.bits == 16 else "float32")
        backend = {
            "device": "cpu",
            "checkpointing": self.checkpointing,
            "dtype": dtype,
            "compile": "on" if self.compiled else "off",
        }
        return RunConfig.model_validate({**self.settings, "backend": backend})

    @property
    def hyperparameters(self) -> Hyperparameters:
        return methods.get(self.method).hyperparameters(**self.config.method.hyperparameters)


class Measured(NamedTuple):
    """A peak in bytes, and the commit that it was measured at."""

    measured: int
    commit: str


@dataclass(frozen=True)
class Outcome:
    """What was predicted and what was measured, in bytes, and at which commit."""

    name: str
    case: Case
    moment: str
    predicted: int
    measured: int
    commit: str

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


PROMPTS_TOO = {"method": {"nll": "prompt+response"}}


def cases() -> list[Case]:
    """Method x batch x lengths x checkpointing x vocabulary, and then other models and settings."""
    made = []
    for checkpointing in ("none", "attention", "layers"):
        way: dict[str, Any] = {"checkpointing": checkpointing}
        made += [
            Case("orpo", 2, 128, 128, **way),
            Case("orpo", 1, 512, 128, vocabulary=32_000, **way),
            Case("dpo", 1, 256, 64, vocabulary=151_936, **way),
            Case("dpo", 4, 64, 64, vocabulary=8_000, **way),
            Case("simpo", 4, 64, 128, vocabulary=32_000, **way),
            Case("simpo", 1, 64, 256, **way),
            Case("sft", 2, 128, 256, **way),
            Case("sft", 4, 64, 128, vocabulary=151_936, **way),
            Case("sft", 1, 512, 512, **way),
            Case("orpo", 1, 2000, 200, vocabulary=8_000, **way),
            Case("orpo", 1, 600, 100, settings=PROMPTS_TOO, **way),
            Case("orpo", 2, 180, 220, vocabulary=32_000, settings=PROMPTS_TOO, **way),
        ]
    for architecture in ("llama", "gemma3", "qwen3-moe"):
        made += [
            Case(checkpointing=checkpointing, architecture=architecture)
            for checkpointing in ("none", "layers")
        ]
    headline = {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1536, "head_dim": 64}
    made += [
        Case("dpo", 2, 180, 220, vocabulary=32_000, model=headline),
        Case("dpo", 2, 180, 220, vocabulary=32_000, model=headline, checkpointing="layers"),
        Case("grpo", 2, 128, 64, vocabulary=8_000),
        Case("grpo", 1, 512, 128, vocabulary=32_000, checkpointing="layers"),
        Case("orpo", 1, 800, 200, architecture="gemma2"),
        Case("orpo", 1, 800, 200, architecture="gemma2", checkpointing="layers"),
        Case("orpo", 1, 300, 60, bits=16),
        Case("orpo", 1, 600, 100, bits=16),
        Case(bits=16),
        Case(bits=16, checkpointing="layers"),
        Case(bits=4),
        Case(architecture="qwen3-moe", bits=4, dtype="bfloat16"),
        Case(model={"num_hidden_layers": 12, "hidden_size": 128, "intermediate_size": 384}),
        Case(model={"intermediate_size": 2048, "num_attention_heads": 4}, checkpointing="layers"),
        Case(settings={"adapter": {"rank": 64}}),
        Case(settings={"adapter": {"layers": 3}}),
        Case(settings={"adapter": {"modules": "attention"}}),
        Case(settings={"adapter": {"dropout": 0.1}}),
        Case(settings={"adapter": {"type": "dora"}}),
        Case(bits=4, settings={"adapter": {"type": "dora"}}),
        Case(settings={"optim": {"name": "lion"}, "adapter": {"rank": 64}}),
        Case(settings={"train": {"accumulate": 4}, "adapter": {"rank": 64}}),
        Case(compiled=True),
        Case("orpo", 1, 512, 128, vocabulary=32_000, compiled=True),
        Case("orpo", 1, 1000, 100, checkpointing="layers", compiled=True),
    ]
    return made + _between_updates()


def _between_updates() -> list[Case]:
    evaluated: dict[str, Any] = {"doing": "evaluation"}
    sampled: dict[str, Any] = {"doing": "sampling"}
    return [
        Case("orpo", 2, 128, 128, vocabulary=32_000, **evaluated),
        Case("orpo", 1, 300, 300, vocabulary=151_936, **evaluated),
        Case("orpo", 1, 2000, 200, checkpointing="layers", **evaluated),
        Case("dpo", 2, 1000, 100, **evaluated),
        Case("simpo", 4, 64, 128, vocabulary=32_000, **evaluated),
        Case("sft", 4, 64, 512, **evaluated),
        Case("orpo", 1, 1000, 100, bits=16, **evaluated),
        Case("orpo", 4, 100, 100, vocabulary=151_936, **evaluated),
        Case("orpo", 1, 800, 200, architecture="gemma2", **evaluated),
        Case("orpo", 2, 600, 100, settings=PROMPTS_TOO, **evaluated),
        Case("grpo", 1, 512, 64, samples=8, **sampled),
        Case("grpo", 4, 256, 64, samples=8, vocabulary=151_936, **sampled),
        Case("grpo", 2, 1500, 200, samples=4, **sampled),
        Case("grpo", 2, 1500, 200, samples=4, bits=16, **sampled),
        Case("orpo", 8, 512, 64, **sampled),
        Case("orpo", 8, 128, 128, **sampled),
        Case("orpo", 8, 300, 256, **sampled),
        Case("grpo", 2, 256, 64, samples=12, **sampled),
        Case("grpo", 2, 256, 64, samples=4, architecture="gemma2", **sampled),
        Case("grpo", 2, 480, 32, samples=4, **sampled),
        Case("grpo", 1, 256, 64, samples=8, settings={"adapter": {"type": "dora"}}, **sampled),
        Case("orpo", 1, 3000, 30, **sampled),
    ]


def measure(case: Case, known: Measured | None = None) -> Outcome:
    """Predict one configuration, and measure it unless that is known."""
    with tempfile.TemporaryDirectory() as folder:
        _write_model(case, Path(folder))
        batch = _batch(case)
        predicted = predict(case, Path(folder), batch)
        if known is None:
            times = TIMES if case.rows > 1 else 1
            peaks = [_peak(case, Path(folder), batch) for _ in range(times)]
            known = Measured(round(median(peaks)), provenance()["commit"])
    return Outcome(case.name, case, predicted.moment, predicted.total, known.measured, known.commit)


def predict(case: Case, folder: Path, batch: Batch) -> Footprint:
    """The planner's footprint of what the case is about, for training at its worst moment."""
    facts, config = read_facts(folder), case.config
    habits = backends.create(config.backend).habits()
    assert habits is not None
    adapter = Adapter.on(facts, config.adapter)
    arithmetic = Arithmetic(facts, adapter, habits, config, batch.branches, batch.prompt_mask is not None)
    shape = Shape(batch.size, batch.prompt_ids.shape[1], batch.branch_ids.shape[1], len(batch.scored))
    if case.doing == "evaluation":
        return arithmetic.evaluation(shape)
    if case.doing == "sampling":
        return arithmetic.sampling(case.rows, case.samples, case.prompt, case.branch)
    return max(*arithmetic.training(shape), arithmetic.update(), key=lambda footprint: footprint.total)


def _peak(case: Case, folder: Path, batch: Batch) -> int:
    """The highest peak of what the case is about, without what was in memory before the model."""
    import mlx.core as mx

    config = case.config
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    policy = backends.create(config.backend).load_policy(folder, config.adapter, config.optim, seed=0)
    mx.clear_cache()
    mx.reset_peak_memory()
    if case.doing == "training":
        _train(policy, case, batch, STEPS)
    else:
        tiny = replace(case, rows=1, prompt=8, branch=8)
        _train(policy, case, _batch(tiny), 1)  # the optimiser has its moments then
        mx.clear_cache()
        mx.reset_peak_memory()
        _between(policy, case, batch)
    return mx.get_peak_memory() - before


def _train(policy: Policy, case: Case, batch: Batch, steps: int) -> None:
    accumulate, method = case.config.train.accumulate, methods.get(case.method)
    objective = Objective(method, case.hyperparameters)
    counts = {term: count * accumulate for term, count in method.counts(batch, objective.hp).items()}
    for step in range(steps):
        for _ in range(accumulate):
            policy.accumulate(batch, objective, counts, seed=step)
        policy.update(1e-4)


def _between(policy: Policy, case: Case, batch: Batch) -> None:
    if case.doing == "evaluation":
        policy.logps(batch)
        return
    sampling = Sampling(max_tokens=case.branch, temperature=1.0)
    policy.generate(batch.prompt_ids.tolist(), sampling=sampling, stop_ids=(), samples=case.samples)


def _batch(case: Case) -> Batch:
    method, rng = methods.get(case.method), np.random.default_rng(0)
    hp = case.hyperparameters
    branches = method.branches(hp)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(3, case.vocabulary, count).tolist())

    examples = [
        Example(
            name=f"row {row}",
            prompt_ids=ids(case.prompt),
            branch_ids=tuple(ids(case.branch) for _ in range(branches)),
            prompt_text="",
            question="",
            answers=("",) * branches,
        )
        for row in range(case.rows)
    ]
    zeros = [[np.zeros(case.branch, np.float32)] * branches] * case.rows
    ref = zeros if method.needs_reference(hp) else None
    batch = collate(examples, ref_logps=ref, scores_prompt=method.scores_prompt(hp))
    if case.method != "grpo":
        return batch
    return replace(batch, advantages=rng.normal(size=len(batch.branch_ids)).astype(np.float32))


def _write_model(case: Case, folder: Path) -> None:
    """A random model in the Hugging Face layout."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    config = {**QWEN3, "vocab_size": case.vocabulary, **OTHERS[case.architecture], **case.model}
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict(config))
    if case.bits == 16:
        model.set_dtype(mx.bfloat16)
    elif case.bits < 16:
        nn.quantize(model, group_size=64, bits=case.bits)
        config["quantization"] = {"group_size": 64, "bits": case.bits}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))


def table(outcomes: Sequence[Outcome]) -> str:
    """One line a configuration."""
    return "\n".join(
        f"{o.ratio:5.2f}  {o.predicted / 1e6:7.1f} {o.measured / 1e6:7.1f} MB  {o.moment:9} {o.name}"
        for o in outcomes
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="those whose name has this part; writes nothing")
    parser.add_argument(
        "--new", action="store_true", help="measure what the result file has not, predict all"
    )
    asked = parser.parse_args(arguments)
    known = _known() if asked.new else []
    outcomes = []
    for case in cases():
        if asked.only in case.name:
            outcomes.append(measure(case, next((m for of, m in known if of == asdict(case)), None)))
            print(table(outcomes[-1:]), flush=True)
    ratios = [o.ratio for o in outcomes]
    within = sum(abs(ratio - 1) <= WITHIN for ratio in ratios)
    print(f"{within} of {len(ratios)} within {WITHIN:.0%}; from {min(ratios):.2f} to {max(ratios):.2f} times")
    if asked.only:
        return
    rows = [{**asdict(o), "case": asdict(o.case), "ratio": round(o.ratio, 3)} for o in outcomes]
    summary = {"configurations": len(outcomes), "within": within, "tolerance": WITHIN}
    print(write(RESULT, {"device": "mlx:cpu", **summary, "outcomes": rows}))


def _known() -> list[tuple[dict[str, Any], Measured]]:
    """What was measured with this MLX on such a machine: cases, and their peaks."""
    written = json.loads((RESULTS / RESULT).read_text(encoding="utf-8"))
    here = provenance()
    if any(written[key] != here[key] for key in ("machine", "python", "versions")):
        return []
    return [(o["case"], Measured(o["measured"], o["commit"])) for o in written["outcomes"]]


if __name__ == "__main__":
    main()

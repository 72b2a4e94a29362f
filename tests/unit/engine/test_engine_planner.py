"""The memory planner: against what MLX measures, and what it makes of a machine that is too small."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from mlx_align import backends, embedded
from mlx_align.backends.mlx.habits import habits
from mlx_align.backends.mlx.selected import chunk_positions
from mlx_align.config import BackendConfig, RunConfig
from mlx_align.data import Shape
from mlx_align.engine.planning import (
    TIGHT,
    Adapter,
    Arithmetic,
    Planner,
    advise,
    forecast,
    preflight,
    read_facts,
)
from mlx_align.engine.planning.advice import changed, quantised
from mlx_align.engine.reporter import Reporter
from mlx_align.errors import UsageError, WontFitError
from mlx_align.events import Alert, Event, Plan
from mlx_align.weights import INDEX
from tests import support
from tests.bench import memory

METAL = 48 << 30
"""What the GPU of a Mac can give."""

# Small forms of `make bench-memory`, so that a change of what a forward pass keeps does not go unnoticed.
# What the last two need of logits at a time would, of all positions at once, be four times all they may take.
SMALL = {"hidden_size": 64, "intermediate_size": 128}
MEASURED = [
    memory.Case("orpo", 2, 64, 96),
    memory.Case("dpo", 1, 192, 32, checkpointing="layers"),
    memory.Case("simpo", 2, 32, 96, checkpointing="attention"),
    memory.Case("sft", 2, 64, 96, bits=16),
    memory.Case("sft", 1, 64, 96, bits=4, settings={"adapter": {"type": "dora"}}),
    memory.Case("orpo", 1, 32, 128, vocabulary=32_000, model=SMALL),
    memory.Case("orpo", 1, 700, 64, checkpointing="attention"),
    memory.Case("orpo", 1, 700, 64, checkpointing="layers"),
    memory.Case("orpo", 1, 1000, 64, checkpointing="layers", doing="evaluation"),
    memory.Case("grpo", 2, 1000, 32, samples=4, doing="sampling"),
    memory.Case("orpo", 1, 32, 128, vocabulary=151_936, model=SMALL),
    memory.Case("dpo", 1, 32, 128, vocabulary=151_936, model=SMALL, checkpointing="layers"),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", MEASURED, ids=lambda case: case.name)
def test_a_plan_is_what_mlx_needs(case: memory.Case) -> None:
    outcome = memory.measure(case)
    assert outcome.ratio == pytest.approx(1, abs=memory.WITHIN), outcome


def planner(**changes: Any) -> Planner:
    backend = backends.create(BackendConfig(device="cpu"))
    examples = support.examples()
    made = Planner.of(backend, embedded.model_folder(), examples[4:], examples[:4], support.objective("orpo"))
    assert made is not None
    return replace(made, **changes)


def with_room(config: RunConfig, share: float) -> Planner:
    """A planner whose machine has this share of what the run needs."""
    made = planner()
    return replace(made, available=int(made.plan(config).total * share))


def config(**settings: Any) -> RunConfig:
    return changed(RunConfig(), {key.replace("__", "."): value for key, value in settings.items()})


# Facts


def test_the_adapter_is_counted_to_the_last_number() -> None:
    for settings in ({}, {"adapter__modules": "attention"}, {"adapter__layers": 2, "adapter__type": "dora"}):
        asked = config(adapter__rank=4, **settings).adapter
        counted = Adapter.on(read_facts(embedded.model_folder()), asked).parameters
        assert counted == support.policy(asked).trainable_parameters()


@pytest.mark.parametrize("bits", [32, 16, 4])
def test_weights_are_counted_as_they_are_loaded(bits: int, tmp_path: Path) -> None:
    import mlx.core as mx

    memory._write_model(memory.Case(bits=bits), tmp_path)
    facts = read_facts(tmp_path)
    gc.collect()  # what earlier tests left must not be freed in between
    before = mx.get_active_memory()
    policy = backends.create(BackendConfig(device="cpu")).load_for_generation(tmp_path, None)
    loaded = mx.get_active_memory() - before
    assert policy.memory().active
    assert facts.weight_bytes(4) == pytest.approx(loaded, abs=200_000)  # probing leaves a little


def test_weights_that_no_loader_reads_are_not_counted(tmp_path: Path) -> None:
    memory._write_model(memory.Case(), tmp_path)
    before = read_facts(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    arrays = load_file(weights)
    names = sorted(arrays)
    parts = {f"model-{part + 1:05}-of-00002.safetensors": names[part::2] for part in range(2)}
    for file, part in parts.items():
        save_file({name: arrays[name] for name in part}, tmp_path / file)
    save_file({f"once.more.{name}": array for name, array in arrays.items()}, weights)
    weights.rename(tmp_path / "consolidated.safetensors")
    table = {name: file for file, part in parts.items() for name in part}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": table}))
    after = read_facts(tmp_path)
    assert after.weight_bytes(4) == before.weight_bytes(4)
    assert set(after.linears) == set(before.linears)


def test_a_packed_module_keeps_its_widths(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    for folder, bits in ((plain, 32), (packed, 4)):
        folder.mkdir()
        memory._write_model(memory.Case(bits=bits), folder)
    assert set(read_facts(plain).linears) == set(read_facts(packed).linears)


def test_experts_are_one_module_with_copies(tmp_path: Path) -> None:
    memory._write_model(memory.Case(architecture="qwen3-moe"), tmp_path)
    facts = read_facts(tmp_path)
    experts = [linear for linear in facts.linears if linear.copies == 8]
    assert len(experts) == 3 * facts.layers
    assert facts.wide == 2 * 384


def test_what_gemma_3_leaves_out_and_sees_with(tmp_path: Path) -> None:
    """google/gemma-3-4b-it names no heads and no vocabulary, and has a tower for images."""
    memory._write_model(memory.Case(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    said = {key: config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": said}))
    (weights,) = tmp_path.glob("*.safetensors")
    arrays = load_file(weights)
    tower = "vision_tower.vision_model.encoder.layers.0"
    seeing = {f"{tower}.{name}.weight": array[:8, :8] for name, array in (
        ("self_attn.q_proj", arrays["model.layers.0.self_attn.q_proj.weight"]),
        ("mlp.fc1", arrays["model.layers.0.mlp.up_proj.weight"]),
    )}  # fmt: skip
    before = read_facts(tmp_path)
    save_file({f"language_model.{name}": array for name, array in arrays.items()} | seeing, weights)
    facts = read_facts(tmp_path)
    assert (facts.heads, facts.key_heads, facts.head_dim, facts.vocabulary) == (8, 4, 256, 262_208)
    assert (set(facts.linears), facts.weight_bytes(4)) == (set(before.linears), before.weight_bytes(4))


@pytest.mark.parametrize(
    ("broken", "word"),
    [({"num_attention_heads": None}, "config.json"), ({"vocab_size": "many"}, "config.json")],
)
def test_a_model_that_says_too_little_is_refused(broken: dict[str, Any], word: str, tmp_path: Path) -> None:
    memory._write_model(memory.Case(), tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**facts, **broken}))
    with pytest.raises(UsageError, match=word):
        read_facts(tmp_path)


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    memory._write_model(memory.Case(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(UsageError, match="cannot be read"):
        read_facts(tmp_path)


# The arithmetic


def peak(shape: Shape, **settings: Any) -> int:
    made, asked = planner(), config(**settings)
    adapter = Adapter.on(made.model, asked.adapter)
    arithmetic = Arithmetic(made.model, adapter, made.habits, asked, 2)
    return max(footprint.total for footprint in arithmetic.training(shape))


def test_more_of_anything_needs_more() -> None:
    least = peak(Shape(1, 64, 64, 128))
    for larger in (Shape(2, 64, 64, 256), Shape(1, 128, 64, 128), Shape(1, 64, 128, 256)):
        assert peak(larger) > least
    assert peak(Shape(1, 64, 64, 128), adapter__rank=64) > least
    assert peak(Shape(1, 64, 64, 128), optim__name="lion") < least


def test_checkpointing_saves() -> None:
    shape = Shape(4, 256, 256, 2048)
    none, attention, layers = (
        peak(shape, backend__checkpointing=name) for name in ("none", "attention", "layers")
    )
    assert none > attention > layers


def test_a_prompt_is_paid_for_once() -> None:
    """Two answers of 64 tokens after 256 of prompt are nearer to one sequence than to two."""
    made, asked = planner(), config()
    adapter = Adapter.on(made.model, asked.adapter)
    pair = Arithmetic(made.model, adapter, made.habits, asked, 2)
    single = Arithmetic(made.model, adapter, made.habits, asked, 1)
    (shared, *_), (one, *_) = pair.training(Shape(2, 256, 64, 256)), single.training(Shape(2, 256, 64, 128))
    assert shared.activations < 1.4 * one.activations


def test_prompts_that_are_scored_keep_their_last_layer_too() -> None:
    made, asked = planner(), config()
    adapter = Adapter.on(made.model, asked.adapter)
    shape = Shape(2, 256, 64, 256)
    plain, scored = (
        next(Arithmetic(made.model, adapter, made.habits, asked, 2, flag).training(shape))
        for flag in (False, True)
    )
    assert plain.activations < scored.activations < 1.3 * plain.activations
    assert plain.scores < scored.scores
    assert plain.keys == scored.keys
    assert scored.head > plain.head


def mixture(device: str, folder: Path, float_bytes: int, **settings: Any) -> Arithmetic:
    """A mixture of experts on a device, of whose floating numbers each has so many bytes."""
    memory._write_model(memory.Case(architecture="qwen3-moe", bits=16), folder)
    model, asked = read_facts(folder), config(**settings)
    adapter = Adapter.on(model, asked.adapter)
    return Arithmetic(model, adapter, habits(device, float_bytes, METAL), asked, 1)


def test_a_16_bit_mixture_keeps_no_inputs_in_float32_on_a_gpu(tmp_path: Path) -> None:
    """Only the factors have copies, of every expert, and of them there are as many for any batch."""

    def kept(float_bytes: int, length: int) -> int:
        (footprint, *_) = mixture("mlx:metal", tmp_path, float_bytes).training(Shape(1, 1, length, length))
        return footprint.activations

    a_token = {width: kept(width, 65) - kept(width, 64) for width in (2, 4)}
    assert a_token[4] == 2 * a_token[2]
    assert kept(4, 64) == 64 * a_token[4]
    assert kept(2, 64) - 64 * a_token[2] == 2 * mixture("mlx:metal", tmp_path, 2).adapter.parameters


def test_a_16_bit_mixture_keeps_experts_inputs_in_float32_on_a_cpu(tmp_path: Path) -> None:
    made = mixture("mlx:cpu", tmp_path, 2)
    assert made.adapter.expert_inputs == 2 * (256 + 256 + 384)  # of gate, up and down, by two experts
    rest = replace(made, adapter=replace(made.adapter, expert_inputs=0))
    (footprint, *_), (without, *_) = (x.training(Shape(1, 1, 64, 64)) for x in (made, rest))
    layers = made.adapter.layers
    assert footprint.activations - without.activations == layers * 64 * 4 * made.adapter.expert_inputs
    assert made._copied_weights() == 2 * (made.adapter.parameters - made.adapter.expert_parameters) // layers


def test_layers_that_are_computed_again_have_one_layers_factors(tmp_path: Path) -> None:
    shape = Shape(1, 1, 64, 64)
    small, large = (
        list(made.training(shape))
        for made in (
            mixture("mlx:metal", tmp_path, 2, backend__checkpointing="layers", adapter__rank=rank)
            for rank in (8, 16)
        )
    )
    assert small[0].activations == large[0].activations
    adapter = mixture("mlx:metal", tmp_path, 2, adapter__rank=8).adapter
    assert large[1].work - small[1].work == 2 * (adapter.parameters // adapter.layers + 64 * adapter.ranks)


def test_a_gpus_longer_chunks_are_planned() -> None:
    of_metal, of_cpu = habits("mlx:metal", 2, METAL), habits("mlx:cpu", 4, METAL)
    for frugal in (False, True):
        assert of_metal.chunk_positions(152_000, 4, frugal) == chunk_positions(152_000, 1, METAL) == 256
        assert of_cpu.chunk_positions(16_000, 4, frugal) == chunk_positions(16_000)


def test_a_cpu_that_compiles_or_has_16_bits_is_planned_without_functions_of_its_own() -> None:
    own, compiled = habits("mlx:cpu", 4, METAL), habits("mlx:cpu", 4, METAL, compiled=True)
    half = habits("mlx:cpu", 2, METAL)
    assert own.gated["silu"] < compiled.gated["silu"] == half.gated["silu"]
    assert own.work.scores < compiled.work.scores == half.work.scores
    assert own.head == half.head != compiled.head
    assert own.head_plain == half.head_plain != compiled.head_plain
    assert own.work_plain.scores > compiled.work_plain.scores == half.work_plain.scores > 0
    assert habits("mlx:metal", 2, METAL).work_plain.scores == 0
    made = backends.create(BackendConfig(device="cpu", compile="on")).habits()
    assert made is not None
    assert made.head == compiled.head


def test_short_chunks_of_layers_that_are_computed_again_are_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_align.backends.mlx.habits.cores", lambda: 2)
    heads = {}
    for checkpointing in ("none", "attention", "layers"):
        made = mixture("mlx:cpu", tmp_path, 4, backend__checkpointing=checkpointing)
        large = replace(made, model=replace(made.model, vocabulary=152_000))
        heads[checkpointing] = large._chunk(Shape(2, 64, 128, 128), grad=True)
    assert heads["none"] == heads["attention"] == 2 * heads["layers"]


def test_parts_add_up() -> None:
    footprint = planner().plan(config()).footprint
    assert sum(footprint.parts.values()) == footprint.total
    assert min(footprint.parts.values()) >= 0


# A machine


def test_verdicts() -> None:
    asked = config()
    for share, verdict in ((1 / TIGHT + 0.01, "fits"), (1.01, "tight"), (0.99, "will not fit")):
        assert with_room(asked, share).plan(asked).verdict == verdict
    assert planner(available=0).plan(asked).verdict == "unknown"


def test_the_system_keeps_its_share() -> None:
    backend = backends.create(BackendConfig(device="cpu"))
    own = backend.habits()
    assert own is not None
    assert own.reserve >= 2 << 30
    assert planner().available == backend.memory().limit - own.reserve


def test_torch_is_not_planned() -> None:
    pytest.importorskip("torch")
    torch = backends.create(BackendConfig(name="torch", device="cpu"))
    examples = support.examples()
    objective = support.objective("orpo")
    assert Planner.of(torch, embedded.model_folder(), examples, examples[:2], objective) is None


# Advice


def test_smaller_batches_come_first_and_keep_the_window() -> None:
    asked = config(train__batch_size=4, train__accumulate=2)
    advice = advise(with_room(asked, 0.95), asked)
    assert advice is not None
    assert set(advice.settings) == {"train.batch_size", "train.accumulate"}
    assert advice.settings["train.batch_size"] * advice.settings["train.accumulate"] == 8
    assert "--set train.batch_size=" in advice.options


def test_advice_is_true() -> None:
    asked = config()
    for share in (0.9, 0.6, 0.4, 0.3):
        made = with_room(asked, share)
        advice = advise(made, asked)
        if advice is not None and not advice.quantise:
            assert made.plan(changed(asked, advice.settings)).verdict != "will not fit"


def test_one_row_is_checkpointed_next() -> None:
    asked = config(train__batch_size=1, adapter__rank=4, eval__samples=0)  # the activations are the most
    advice = advise(with_room(asked, 0.98), asked)
    assert advice is not None
    assert set(advice.settings) == {"backend.checkpointing"}


def test_a_token_budget_is_halved() -> None:
    asked = config(train__batch_size=None, train__tokens_per_batch=4096)
    advice = advise(with_room(asked, 0.95), asked)
    assert advice is not None
    budget, times = advice.settings["train.tokens_per_batch"], advice.settings["train.accumulate"]
    assert budget * times == 4096


def test_what_no_setting_mends_needs_a_smaller_base() -> None:
    asked = config()
    made = planner()
    weights = made.model.weight_bytes(4)
    small = replace(made, available=weights // 2)
    found = advise(small, asked)
    assert found is None or found.quantise
    nothing = replace(made, available=1000)
    assert advise(nothing, asked) is None
    assert "smaller base" in forecast(nothing, asked).remedy
    assert quantised(made.model).weight_bytes(4) < weights / 4


# Before a run


def heard(share: float, otherwise: Any) -> list[Event]:
    events: list[Event] = []
    asked = config()
    preflight(with_room(asked, share), asked, Reporter(events.append), otherwise)
    return events


def test_a_run_that_fits_is_told() -> None:
    (event,) = heard(2.0, "refuse")
    assert isinstance(event, Plan)
    assert event.verdict == "fits"
    assert event.total == sum(event.parts.values())


def test_a_tight_run_is_warned() -> None:
    plan, alert = heard(1.05, "refuse")
    assert isinstance(plan, Plan)
    assert isinstance(alert, Alert)
    assert plan.verdict == "tight"
    assert alert.code == "tight-memory"
    assert "--set " in alert.message


def test_a_run_that_will_not_fit_is_refused_with_the_way_out() -> None:
    with pytest.raises(WontFitError, match="will not fit") as refused:
        heard(0.9, "refuse")
    assert refused.value.exit_code == 4
    assert "--set train.batch_size=" in str(refused.value.hint)
    assert "guard.memory=warn" in str(refused.value.hint)


def test_unless_it_is_forced() -> None:
    plan, alert = heard(0.9, "warn")
    assert isinstance(plan, Plan)
    assert isinstance(alert, Alert)
    assert alert.code == "will-not-fit"

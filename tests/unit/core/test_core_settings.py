"""Which layer a value comes from, and what is said when a value cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_align import embedded, methods, settings
from mlx_align.errors import ConfigError, UsageError
from mlx_align.presets import PRESET_METHODS, PRESETS
from mlx_align.settings import (
    Layer,
    Resolved,
    flatten,
    from_assignments,
    from_environment,
    gather,
    nest,
    parse_value,
    resolve,
)


@pytest.fixture(autouse=True)
def user_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's person keeps their own defaults; not there until a test writes it."""
    path = tmp_path / "user.toml"
    monkeypatch.setattr(settings, "user_config_path", lambda: path)
    return path


def resolved(
    method: str | None = "orpo", *, environ: dict[str, str] | None = None, **layers: Any
) -> Resolved:
    return resolve(gather(method, flags=layers.pop("flags", {}), environ=environ or {}, **layers))


def refusal(method: str | None = "orpo", **layers: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolved(method, **layers)
    return caught.value


# Precedence


def test_every_layer_is_stronger_than_the_one_below_it(
    tmp_path: Path, user_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flag > environment > file > preset > user config > catalog > method > default."""
    known: dict[str, Any] = {}
    monkeypatch.setattr(embedded, "catalog", lambda: known)
    monkeypatch.setitem(PRESETS, "mine", {"optim.lr": 0.5})
    file = tmp_path / "run.toml"
    file.write_text("[optim]\nlr = 0.6\n")
    given: dict[str, Any] = {}

    def now() -> tuple[float, str]:
        outcome = resolved("sft", **given)
        return outcome.config.optim.lr, outcome.origins.get("optim.lr", "default")

    assert now() == (1e-4, "method sft")
    known["tiny-chat"] = {"sft": {"optim.lr": 0.3}, "dpo": {"optim.lr": 9.0}}
    assert now() == (0.3, "catalog tiny-chat")
    user_config.write_text("[optim]\nlr = 0.4\n")
    assert now() == (0.4, f"user config {user_config}")
    given["preset"] = "mine"
    assert now() == (0.5, "preset mine")
    given["file"] = file
    assert now() == (0.6, f"file {file}")
    given["environ"] = {"MLX_ALIGN_OPTIM__LR": "0.7"}
    assert now() == (0.7, "environment")
    given["flags"] = {"optim.lr": 0.8}
    assert now() == (0.8, "flag")


def test_layers_are_merged_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[adapter]\nrank = 4\nscale = 3.0\n")
    outcome = resolved(file=file, flags={"adapter.rank": 8})
    assert (outcome.config.adapter.rank, outcome.config.adapter.scale) == (8, 3.0)
    origins = {key: origin for key, _, origin in outcome.items()}
    assert origins["adapter.rank"] == "flag"
    assert origins["adapter.scale"] == f"file {file}"
    assert origins["adapter.dropout"] == "default"
    assert origins["method.beta"] == "default"


def test_every_key_of_the_schema_is_listed_with_its_origin() -> None:
    keys = [key for key, _, _ in resolved().items()]
    assert set(flatten(settings.RunConfig().model_dump())) <= set(keys)
    assert len(keys) == len(set(keys))


def test_the_method_may_come_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[method]\nname = "dpo"\nbeta = 0.3\n')
    outcome = resolved(None, file=file)
    assert outcome.config.method.name == "dpo"
    assert outcome.config.method.hyperparameters == {
        "beta": 0.3,
        "loss_type": "sigmoid",
        "label_smoothing": 0.0,
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_hold_for_every_method(preset: str) -> None:
    for method in ("grpo",) if preset in PRESET_METHODS else methods.METHODS:
        outcome = resolved(method, preset=preset)
        for key, value in PRESETS[preset].items():
            assert outcome.origins[key] == f"preset {preset}"
            assert flatten(outcome.config.model_dump())[key] == value


# One length


def test_steps_in_a_stronger_layer_unset_epochs_in_a_weaker_one(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[train]\nepochs = 2.0\n")
    by_file = resolved(file=file).config.train
    assert (by_file.epochs, by_file.steps) == (2.0, None), "the catalog's steps must give way"
    by_flag = resolved(file=file, flags={"train.steps": 7}).config.train
    assert (by_flag.epochs, by_flag.steps) == (None, 7)


def test_a_budget_of_tokens_takes_the_place_of_the_rows_in_a_batch_and_back(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[train]\ntokens_per_batch = 8192\n")
    by_file = resolved(file=file).config.train
    assert (by_file.batch_size, by_file.tokens_per_batch) == (None, 8192)
    by_flag = resolved(file=file, flags={"train.batch_size": 3}).config.train
    assert (by_flag.batch_size, by_flag.tokens_per_batch) == (3, None)
    assert "both set" in refusal(flags={"train.batch_size": 3, "train.tokens_per_batch": 8192}).message
    assert "exactly one of batch_size" in refusal(flags={"train.batch_size": None}).message


def test_both_lengths_in_one_layer_are_refused() -> None:
    error = refusal(flags={"train.steps": 7, "train.epochs": 2.0})
    assert "both set" in error.message
    assert error.where == "flag"


def test_no_length_at_all_is_refused() -> None:
    error = refusal(flags={"train.steps": None, "train.epochs": None})
    assert "exactly one of epochs and steps" in error.message
    assert error.where is not None
    assert "flag" in error.where


# Values of None


def test_none_unsets_what_a_weaker_layer_set(user_config: Path) -> None:
    user_config.write_text("[eval]\npatience = 3\n")
    assert resolved().config.eval.patience == 3
    outcome = resolved(flags=from_assignments(["eval.patience=none"]))
    assert outcome.config.eval.patience is None
    assert outcome.origins["eval.patience"] == "flag"


def test_none_where_a_value_is_needed_is_refused() -> None:
    error = refusal(flags={"optim.lr": None})
    assert error.where == "optim.lr (flag)"
    assert "unset" in error.message


# What is refused, and how


def test_an_unknown_key_suggests_the_nearest_one() -> None:
    error = refusal(flags={"adapter.rnak": 3})
    assert error.message == "unknown key"
    assert error.where == "adapter.rnak (flag)"
    assert error.hint is not None
    assert "'adapter.rank'" in error.hint


def test_an_unknown_key_suggests_the_right_section() -> None:
    error = refusal(environ={"MLX_ALIGN_TRAIN__LR": "1"})
    assert error.where == "train.lr (environment)"
    assert error.hint is not None
    assert "Did you mean" in error.hint


def test_an_unknown_section_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[trian]\nsteps = 3\n")
    error = refusal(file=file)
    assert error.message == "unknown key"
    assert error.where == f"trian (file {file})"


def test_a_key_of_another_method_is_refused_and_the_methods_own_are_suggested() -> None:
    error = refusal("simpo", flags={"method.gama": 1.0})
    assert error.where == "method.gama (flag)"
    assert error.hint is not None
    assert "'method.gamma'" in error.hint
    assert refusal("orpo", flags={"method.gamma": 1.0}).message == "unknown key"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optim.lr", -1.0, "greater than 0"),
        ("optim.name", "sgd", "adamw"),
        ("adapter.layers", 0, "at least 1"),
        ("adapter.layers", "some", "whole number or 'all'"),
        ("adapter.modules", (), "at least one module"),
        ("train.batch_size", "many", "whole number"),
        ("optim.lr", float("nan"), "finite"),
        ("method.beta", 0.0, "greater than 0"),
        ("method.name", "ppo", "orpo"),
        ("model.path", "", "empty"),
    ],
)
def test_a_refusal_names_key_and_layer(key: str, value: Any, said: str) -> None:
    error = refusal(None, flags={key: value})
    assert said in f"{error.message} {error.hint}"
    assert error.where in (f"{key} (flag)", f"{key.split('.')[0]} (flag)")


def test_each_layer_is_named_as_a_person_knows_it(tmp_path: Path, user_config: Path) -> None:
    bad = "[train]\nbatch_size = 0\n"
    file = tmp_path / "run.toml"
    file.write_text(bad)
    assert refusal(file=file).where == f"train.batch_size (file {file})"
    assert refusal(environ={"MLX_ALIGN_TRAIN__BATCH_SIZE": "0"}).where == "train.batch_size (environment)"
    user_config.write_text(bad)
    assert refusal().where == f"train.batch_size (user config {user_config})"


@pytest.mark.parametrize(
    "layers",
    [
        {"flags": {"method.name": "orpo"}},
        {"environ": {"MLX_ALIGN_METHOD__NAME": "orpo"}},
        {"file": '[method]\nname = "orpo"\n'},
    ],
)
def test_a_method_that_contradicts_the_command_is_refused(layers: dict[str, Any], tmp_path: Path) -> None:
    if "file" in layers:
        file = tmp_path / "run.toml"
        file.write_text(layers["file"])
        layers = {"file": file}
    error = refusal("dpo", **layers)
    assert error.message == "the command says 'dpo' but this says 'orpo'"
    assert error.where is not None
    assert "method.name" in error.where
    assert resolved("orpo", **layers).config.method.name == "orpo", "saying the same twice is no conflict"


def test_combinations_that_make_no_sense_are_refused() -> None:
    assert "sft has no 'accuracy'" in refusal("sft", flags={"eval.metric": "accuracy"}).message
    assert "patient" in refusal(flags={"eval.patience": 2, "eval.every": 0}).message
    error = refusal(flags={"adapter.start": "somewhere", "adapter.rank": 4})
    assert error.where == "adapter.rank (flag)"
    assert "decides this already" in error.message
    assert resolved(flags={"adapter.start": "somewhere"}, preset="quick").config.adapter.start == "somewhere"
    assert "weight_decay" in refusal(flags={"optim.name": "adam", "optim.weight_decay": 0.1}).message
    assert "min_lr" in refusal(flags={"optim.schedule": "constant", "optim.min_lr": 0.1}).message
    smoothed = {"method.loss_type": "ipo", "method.label_smoothing": 0.1}
    assert "label_smoothing" in refusal("dpo", flags=smoothed).message


def test_an_unknown_preset_lists_the_known_ones() -> None:
    error = refusal(preset="fast")
    assert error.where == "--preset"
    assert error.hint is not None
    assert all(name in error.hint for name in ("quick", "balanced", "thorough"))


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert refusal(file=missing).where == str(missing)
    bad = tmp_path / "bad.toml"
    bad.write_text("[optim]\nlr = = 3\n")
    error = refusal(file=bad)
    assert error.where == str(bad)
    assert "line 2" in error.message


# Reading single values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-4", 1e-4),
        ("true", True),
        ("cosine", "cosine"),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ("none", None),
        ("Null", None),
        ("", None),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("a = b", "a = b"),
    ],
)
def test_a_value_is_toml_or_else_the_bare_text(text: str, value: Any) -> None:
    assert parse_value(text) == value


def test_assignments() -> None:
    got = from_assignments(["optim.lr = 1e-3", "data.path=a=b.jsonl", "train.steps=none"])
    assert got == {"optim.lr": 1e-3, "data.path": "a=b.jsonl", "train.steps": None}
    for wrong in (["optim.lr"], ["=3"], ["a.b=1", "a.b=2"]):
        with pytest.raises(ConfigError, match="--set"):
            from_assignments(wrong)


def test_two_underscores_stand_for_the_dot() -> None:
    environ = {"MLX_ALIGN_OPTIM__MAX_GRAD_NORM": "0.5", "MLX_ALIGN_DATA__PATH": "x y", "PATH": "/bin"}
    assert from_environment(environ) == {"optim.max_grad_norm": 0.5, "data.path": "x y"}


def test_nesting_undoes_flattening() -> None:
    tree = {"a": {"b": 1, "c": {"d": None}}, "e": [1]}
    assert nest(flatten(tree)) == tree
    with pytest.raises(ConfigError, match="'a' is a value"):
        nest({"a": 1, "a.b": 2})


def test_resolving_leaves_the_layers_alone() -> None:
    layer = Layer("flag", {"train.steps": 3})
    resolve([layer])
    assert dict(layer.values) == {"train.steps": 3}


# Methods that sample


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sampling.temperature", 0.7),
        ("rollout.updates", 2),
        ("rewards", [{"name": "numeric"}]),
        ("train.branches_at_once", 2),
        ("eval.pass_k", 4),
    ],
)
def test_what_only_sampling_reads_is_refused_elsewhere(key: str, value: Any) -> None:
    error = refusal("dpo", flags={key: value})
    assert "no meaning for dpo" in error.message
    assert (error.where or "").startswith(f"{key} (flag)")
    assert flatten(resolved("grpo", flags={key: value}).config.model_dump())[key] is not None


def test_a_persons_usual_sampling_gives_way_without_a_word(user_config: Path) -> None:
    user_config.write_text("[sampling]\ntemperature = 0.7\n")
    assert resolved("dpo").config.sampling.temperature == 0.7
    assert resolved("grpo").origins["sampling.temperature"].startswith("user config")


@pytest.mark.parametrize(
    ("flags", "where", "word"),
    [
        ({"train.tokens_per_batch": 100}, "train.tokens_per_batch", "no meaning"),
        ({"eval.metric": "accuracy"}, "eval.metric", "no 'accuracy'"),
        ({"rewards": []}, "rewards", "needs a reward"),
        ({"rewards": [{"name": "telepathy"}]}, None, "unknown reward 'telepathy'"),
        ({"rewards": [{"name": "numeric", "telepathy": 1}]}, "rewards[0].telepathy", "numeric"),
        ({"sampling.max_tokens": 4096}, "sampling.max_tokens", "no room"),
        ({"sampling.temperature": 0.0}, "sampling.temperature", "greater than 0"),
        ({"sampling.stop": [""]}, "sampling", "empty"),
        ({"train.branches_at_once": 9}, "train.branches_at_once", "only 8 completions"),
        ({"method.overlong_buffer": 100}, "sampling.max_tokens", "longer than the longest"),
        ({"adapter.dropout": 0.1, "rollout.updates": 2}, "adapter.dropout", "dropout"),
        ({"adapter.dropout": 0.1, "method.num_iterations": 2}, "adapter.dropout", "dropout"),
        ({"adapter.dropout": 0.1, "method.beta": 0.01}, "adapter.dropout", "dropout"),
    ],
)
def test_what_cannot_hold_while_sampling_is_refused(
    flags: dict[str, Any], where: str | None, word: str
) -> None:
    with pytest.raises(UsageError) as caught:
        resolved("grpo", flags=flags)
    assert word in caught.value.message
    assert where is None or (caught.value.where or "").startswith(where)


def test_dropout_is_fine_where_nothing_is_compared() -> None:
    flags = {"adapter.dropout": 0.1}
    assert resolved("grpo", flags=flags).config.adapter.dropout == 0.1
    assert resolved("dpo", flags=flags).config.adapter.dropout == 0.1


def test_filters_of_the_sampling() -> None:
    assert resolved("grpo", flags={"sampling.temperature": 0.7}).config.sampling.filters == ()
    on = {
        "sampling.top_p": 0.9,
        "sampling.top_k": 5,
        "sampling.min_p": 0.1,
        "sampling.repetition_penalty": 1.1,
    }
    filters = resolved("grpo", flags=on).config.sampling.filters
    assert sorted(f"sampling.{name}" for name in filters) == sorted(on)


def test_a_preset_of_one_method_is_refused_by_the_others() -> None:
    error = refusal("orpo", preset="r1")
    assert error.message == "the preset 'r1' is for grpo, and the method is orpo"
    assert "quick, balanced, thorough" in (error.hint or "")

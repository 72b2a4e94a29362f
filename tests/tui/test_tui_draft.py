"""A run that is being put together means the same as a command, as a file, and as what is launched."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from textual.content import Content

from mlx_align import methods
from mlx_align.errors import ConfigError
from mlx_align.rewards.registry import REWARDS
from mlx_align.settings import flatten, gather, resolve
from mlx_align_cli.main import run as command_line
from mlx_align_tui.screens.new_run import explanations, meanings
from mlx_align_tui.screens.new_run.draft import Draft
from mlx_align_tui.screens.new_run.fields import advanced
from mlx_align_tui.screens.new_run.rewards import Rewards

DRAFTS: list[dict[str, Any]] = [
    {},
    {"method": "dpo", "preset": "quick", "typed": {"optim.lr": "1e-5", "method.beta": "0.3"}},
    {
        "typed": {
            "train.steps": "7",
            "train.tokens_per_batch": "4096",
            "adapter.modules": '["self_attn.q_proj"]',
        }
    },
    {"method": "sft", "model": "a b/c'd", "data": "rows $HOME;.jsonl", "typed": {"adapter.layers": "4"}},
    {
        "method": "grpo",
        "rewards": Rewards({"numeric": "1", "refusal": "0.5"}),
        "typed": {"sampling.max_tokens": "32"},
    },
    {
        "method": "grpo",
        "rewards": Rewards(
            {"numeric": "2", "regex": "-1e-1", "length": "1", "keywords": ".5", "json": "1"},
            {
                "regex.pattern": 'a"[b]\\d',
                "length.target": "20",
                "length.width": "5",
                "length.unit": "words",
                "keywords.include": "bitte, größten Dank 🙂",
                "keywords.exclude": '["a,b", "c d"]',
                "keywords.case": "true",
                "json.schema": '{"type": "object", "properties": {"a.b": {"$ref": "#"}}}',
            },
            ({"name": "length", "weight": 1.0, "label": "short", "target": 5, "width": 5},),
        ),
    },
    {
        "typed": {"backend.checkpointing": '"none"', "model.revision": '"12"', "eval.patience": "2"},
        "model": "a/b",
    },
    {"preset": "quick", "typed": {"train.epochs": "2", "train.tokens_per_batch": "512"}},
    {"method": "grpo", "preset": "r1", "rewards": Rewards({"numeric": "1"}), "typed": {"train.steps": "3"}},
]


@pytest.mark.parametrize("chosen", DRAFTS)
def test_the_command_is_quoted_and_means_the_very_same(
    chosen: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    draft = Draft(tmp_path / "my runs", **chosen)
    program, *arguments = shlex.split(draft.command())
    assert program == "mlx-align"
    assert command_line([*arguments, "--dry-run", "--json"]) == 0
    told = {one["key"]: one["value"] for one in _settings(capsys.readouterr().out)}
    wanted = flatten(draft.resolved().config.model_dump(mode="json"))
    assert told == wanted


def _settings(out: str) -> list[dict[str, Any]]:
    found = json.loads(out)
    if isinstance(found, dict):
        return [{"key": key, "value": one["value"]} for key, one in found.items()]
    return list(found)


@pytest.mark.parametrize("chosen", DRAFTS)
def test_the_file_means_the_very_same(chosen: dict[str, Any], tmp_path: Path) -> None:
    draft = Draft(tmp_path, **chosen)
    file = tmp_path / "run.toml"
    file.write_text(draft.toml(), encoding="utf-8")
    read = resolve(gather(draft.method, flags={}, file=file, environ={}))
    assert read.config == draft.resolved().config


def test_the_folder_for_runs_is_named_only_where_another_would_be_taken(tmp_path: Path) -> None:
    assert "--runs-dir" not in Draft(Path("runs")).command()
    assert "runs" not in Draft(Path("runs")).toml()
    assert "--runs-dir" in Draft(tmp_path).command()


@pytest.mark.parametrize("chosen", DRAFTS)
def test_a_configuration_can_be_begun_with(chosen: dict[str, Any], tmp_path: Path) -> None:
    config = Draft(tmp_path, **chosen).resolved().config
    assert Draft.of(tmp_path, config).resolved().config == config


def test_what_has_no_meaning_for_a_method_is_kept_but_not_used(tmp_path: Path) -> None:
    draft = Draft(tmp_path, typed={"method.beta": "0.3", "train.tokens_per_batch": "512"}, preset="r1")
    draft.method = "sft"
    assert draft.resolved().config.method.hyperparameters == {}
    draft.method = "grpo"
    draft.put("rewards.numeric", "1")
    assert draft.resolved().config.train.tokens_per_batch is None
    draft.method = "orpo"
    assert draft.resolved().config.train.tokens_per_batch == 512
    draft.put("rewards.numeric", "much")
    draft.method = "grpo"
    with pytest.raises(ConfigError) as caught:
        draft.resolved()
    assert draft.key_of(caught.value) == "rewards.numeric"


def test_a_function_of_ones_own_is_named_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def polite(completion, **rest):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    draft = Draft(Path("runs"), method="grpo")
    draft.put("rewards.python.function", "mine.py:polite")
    (reward,) = draft.resolved().config.rewards
    assert reward.name == f"{file}:polite"
    assert draft.options() == ["--reward", f"{file}:polite"]
    draft.put("rewards.python", "0.5")
    draft.put("rewards.python.timeout", "5")
    config = draft.resolved().config
    assert Draft.of(Path("runs"), config).resolved().config == config
    _, *arguments = shlex.split(draft.command())
    assert command_line([*arguments, "--dry-run", "--json"]) == 0
    told = {one["key"]: one["value"] for one in _settings(capsys.readouterr().out)}
    assert told == flatten(config.model_dump(mode="json"))
    file.unlink()
    assert Draft.of(Path("runs"), config).method == "grpo", "a run can be looked at though its file is gone"


@pytest.mark.parametrize(
    ("key", "text", "at", "said"),
    [
        ("rewards.length", "1", "rewards.length.target", "must be set"),
        ("rewards.length.target", "-1", "rewards.length.target", "must be greater than or equal to 0"),
        ("rewards.length.target", "far", "rewards.length.target", "must be a whole number"),
        ("rewards.keywords", "1", "rewards.keywords", "set include, exclude or both"),
        ("rewards.regex.pattern", "(", "rewards.regex.pattern", "not a regular expression"),
        ("rewards.language.language", "elvish", "rewards.language.language", "'elvish' is not one of"),
        ("rewards.json.schema", "x", "rewards.json.schema", "must be a table"),
        ("rewards.numeric.extract", "inside", "rewards.numeric.extract", "must be 'boxed'"),
        ("rewards.numeric", "nan", "rewards.numeric", "must be a number"),
        ("rewards.python", "1", "rewards.python.function", "must be FILE.py:FUNCTION"),
        ("rewards.python.function", "none.py:f", "rewards.python.function", "cannot be read"),
        ("rewards.python.function", "~nobody-here/r.py:f", "rewards.python.function", "cannot be read"),
        ("rewards.python.function", "x" * 300 + ".py:f", "rewards.python.function", "cannot be read"),
        ("rewards.python.function", "bad.py:f", "rewards.python.function", "is not Python"),
        ("rewards.python.function", "good.py:f", "rewards.python.function", "it has g"),
        ("method.beta", "-1", "method.beta", "must be greater than or equal to 0 and is -1"),
        ("optim.lr", "quick", "optim.lr", 'must be a number and is "quick"'),
        ("adapter.layers", "many", "adapter.layers", "must be a whole number or 'all'"),
    ],
)
def test_what_is_wrong_is_told_at_its_field_in_plain_words(
    key: str, text: str, at: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.py").write_text("def f(:\n")
    (tmp_path / "good.py").write_text("def g(completion):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    draft = Draft(Path("runs"), method="grpo")
    draft.put("rewards.exact", "1")
    draft.put(key, text)
    with pytest.raises(ConfigError) as caught:
        draft.resolved()
    assert draft.key_of(caught.value) == at
    assert said in caught.value.message
    assert "Input" not in caught.value.message


@pytest.mark.parametrize("method", sorted(methods.METHODS))
def test_every_field_has_words_of_its_own(method: str) -> None:
    for spec in advanced(method):
        text = explanations.explain(spec, method)
        assert text
        assert spec.reward or text.lower() != f"{spec.description}.".lower(), spec.key
        Content.from_markup(text)  # its markup is whole
    assert set(meanings.REWARDS) == set(REWARDS)


def test_a_configuration_outlives_a_broken_file_of_the_persons_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Draft(tmp_path, typed={"optim.lr": "3e-4"}).resolved().config
    folder = tmp_path / "broken"
    (folder / "mlx-align").mkdir(parents=True)
    (folder / "mlx-align" / "config.toml").write_text("[optim]\nlearning_rate = 1\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    draft = Draft.of(tmp_path, config)
    assert draft.typed["optim.lr"] == "0.0003"
    with pytest.raises(ConfigError):
        draft.resolved()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert draft.resolved().config == config


def test_a_value_that_is_called_none_is_not_the_lack_of_one(tmp_path: Path) -> None:
    draft = Draft(tmp_path, method="grpo")
    for key in (
        "backend.checkpointing",
        "backend.quantize",
        "method.scale_rewards",
        "train.branches_at_once",
    ):
        draft.put(key, "none")
        assert draft.text(key) == "none"
    config = draft.resolved().config
    assert (config.backend.checkpointing, config.backend.quantize) == ("none", "none")
    assert config.method.hyperparameters["scale_rewards"] == "none"
    assert config.train.branches_at_once is None
    assert Draft.of(tmp_path, config).resolved().config == config

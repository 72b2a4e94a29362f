"""A run that is being put together means the same as a command, as a file, and as what is launched."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from mlx_align.errors import ConfigError
from mlx_align.settings import flatten, gather, resolve
from mlx_align_cli.main import run as command_line
from mlx_align_tui.screens.new_run.draft import Draft

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
    {"method": "grpo", "weights": {"numeric": "1", "refusal": "0.5"}, "typed": {"sampling.max_tokens": "32"}},
    {
        "method": "grpo",
        "weights": {"numeric": "2"},
        "tables": ({"name": "regex", "weight": 1.0, "pattern": 'a"[b]\\d'},),
    },
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
    read = resolve(gather(draft.method, flags={"runs.dir": str(tmp_path)}, file=file, environ={}))
    assert read.config == draft.resolved().config


@pytest.mark.parametrize("chosen", DRAFTS)
def test_a_configuration_can_be_begun_with(chosen: dict[str, Any], tmp_path: Path) -> None:
    config = Draft(tmp_path, **chosen).resolved().config
    assert Draft.of(tmp_path, config).resolved().config == config


def test_what_has_no_meaning_for_a_method_is_kept_but_not_used(tmp_path: Path) -> None:
    draft = Draft(tmp_path, typed={"method.beta": "0.3", "train.tokens_per_batch": "512"}, preset="r1")
    draft.method = "sft"
    assert draft.resolved().config.method.hyperparameters == {}
    draft.method = "grpo"
    draft.weights = {"numeric": "1"}
    assert draft.resolved().config.train.tokens_per_batch is None
    draft.method = "orpo"
    assert draft.resolved().config.train.tokens_per_batch == 512
    draft.weights = {"numeric": "much"}
    draft.method = "grpo"
    with pytest.raises(ConfigError) as caught:
        draft.resolved()
    assert caught.value.where == "rewards.numeric"

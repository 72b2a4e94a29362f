from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mlx_align import embedded, methods
from mlx_align.settings import gather, resolve


@pytest.mark.parametrize("method", methods.METHODS)
def test_init_writes_a_file_that_changes_nothing(cli, tmp_path: Path, method: str):
    assert cli("config", "init", "--method", method).code == 0
    written = resolve(gather(method, flags={}, file=tmp_path / "run.toml")).config
    assert written == resolve(gather(method, flags={})).config


def test_init_explains_every_key(cli):
    text = cli("config", "init", "-").out
    for key, _, _ in resolve(gather("orpo", flags={})).items():
        assert re.search(rf"^(# )?{key.split('.')[1]} = ", text, re.MULTILINE), key


def test_the_defaults_can_be_uncommented(cli, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(embedded, "catalog", dict)  # what a file says is stronger than what a base suggests
    text = cli("config", "init", "-", "--method", "dpo").out
    active = re.sub(r"^# (?=\w+ = (?!\(unset\)))", "", text, flags=re.MULTILINE)
    path = tmp_path / "active.toml"
    path.write_text(active)
    assert resolve(gather("dpo", flags={}, file=path)).config == resolve(gather("dpo", flags={})).config


def test_init_with_a_preset(cli, tmp_path: Path):
    cli("config", "init", "quick.toml", "--preset", "quick")
    written = resolve(gather("orpo", flags={}, file=tmp_path / "quick.toml")).config
    assert written == resolve(gather("orpo", flags={}, preset="quick")).config


def test_init_does_not_overwrite(cli, tmp_path: Path):
    (tmp_path / "run.toml").write_text("mine")
    result = cli("config", "init")
    assert result.code == 2
    assert "--force" in result.err
    assert (tmp_path / "run.toml").read_text() == "mine"
    assert cli("config", "init", "--force").code == 0
    assert cli("config", "init", "no/such/folder.toml").code == 1
    assert cli("config", "init", "--method", "ppo").code == 2


def test_show(cli, monkeypatch):
    monkeypatch.setenv("MLX_ALIGN_METHOD__NAME", "simpo")
    settings = json.loads(cli("config", "show", "--json", "--set", "optim.lr=1").out)
    assert settings["method.name"] == {"value": "simpo", "origin": "environment"}
    assert settings["method.gamma"]["origin"] == "default"
    assert settings["optim.lr"]["value"] == 1


def test_schema_lists_every_key(cli):
    text = cli("config", "schema").out
    for method in methods.METHODS:
        for key, _, _ in resolve(gather(method, flags={})).items():
            assert re.search(rf"^{re.escape(key)} ", text, re.MULTILINE), key
    assert "sigmoid | ipo | hinge" in text


def test_json_schema(cli):
    schema = json.loads(cli("config", "schema", "--json").out)
    variants = {variant["title"]: variant for variant in schema["$defs"]["MethodConfig"]["anyOf"]}
    assert set(variants) == set(methods.METHODS)
    assert "label_smoothing" in variants["dpo"]["properties"]

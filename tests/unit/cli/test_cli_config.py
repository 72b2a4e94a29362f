from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from mlx_align import embedded, methods
from mlx_align.combinations import concerns
from mlx_align.settings import gather, resolve
from mlx_align_cli import schema
from mlx_align_cli.display import listing


@pytest.mark.parametrize("method", methods.METHODS)
def test_init_writes_a_file_that_changes_nothing(cli, tmp_path: Path, method: str):
    assert cli("config", "init", "--method", method).code == 0
    written = resolve(gather(method, flags={}, file=tmp_path / "run.toml")).config
    assert written == resolve(gather(method, flags={})).config


@pytest.mark.parametrize("method", ["orpo", "grpo"])
def test_init_explains_every_key_that_concerns_the_method(cli, method: str):
    table, explained = "", set()
    for line in cli("config", "init", "-", "--method", method).out.split("\n"):
        if found := re.match(r"\[(\w+)\]$", line):
            table = f"{found[1]}."
        elif found := re.match(r"(?:# )?(\w+) = ", line):
            explained.add(table + found[1])
    keys = [key for key, _, _ in resolve(gather(method, flags={})).items()]
    assert explained == {key for key in keys if concerns(key, method)}


def test_the_defaults_can_be_uncommented(cli, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(embedded, "catalog", dict)  # what a file says is stronger than what a base suggests
    text = cli("config", "init", "-", "--method", "dpo").out
    active = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
    examples = r"unset by default\)\n\w+ = .*$"
    tomllib.loads(active)
    shown = [key for key in schema.EXAMPLES if concerns(key, "dpo")]
    assert len(re.findall(examples, active, re.MULTILINE)) == len(shown)
    active = re.sub(examples, "", active, flags=re.MULTILINE)
    path = tmp_path / "active.toml"
    path.write_text(active)
    assert resolve(gather("dpo", flags={}, file=path)).config == resolve(gather("dpo", flags={})).config


def test_init_with_a_preset(cli, tmp_path: Path):
    cli("config", "init", "quick.toml", "--preset", "quick")
    written = resolve(gather("orpo", flags={}, file=tmp_path / "quick.toml")).config
    assert written == resolve(gather("orpo", flags={}, preset="quick")).config


def test_init_puts_a_home_in(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert cli("config", "init", "~/run.toml").code == 0
    assert (tmp_path / "home" / "run.toml").is_file()
    assert cli("config", "init", "~nobody-of-this-name.toml").code == 2
    assert not list(tmp_path.glob("~*"))


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


@pytest.mark.parametrize(("key", "value"), schema.EXAMPLES.items())
def test_an_example_is_a_value_that_is_allowed(key: str, value):
    method = "orpo" if concerns(key, "orpo") else "grpo"
    assert {k: v for k, v, _ in resolve(gather(method, flags={key: value})).items()}[key] == value


def test_schema_keeps_a_key_on_one_line_of_80(cli, monkeypatch):
    monkeypatch.setattr(listing, "stdout", lambda: Console(highlight=False, width=80))
    lines = cli("config", "schema").out.splitlines()
    assert "adapter.rank  integer >= 1  default 16" in lines
    assert "    rank r of the update scale * B A" in lines
    assert max(len(line) for line in lines if line.startswith("    ")) <= 80


def test_json_schema(cli):
    tree = json.loads(cli("config", "schema", "--json").out)
    variants = {variant["title"]: variant for variant in tree["$defs"]["MethodConfig"]["anyOf"]}
    assert set(variants) == set(methods.METHODS)
    assert "label_smoothing" in variants["dpo"]["properties"]

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_align import embedded
from mlx_align.export.base import Base

NAME = "model.layers.3.self_attn.q_proj"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """An adapter for the embedded model as peft writes it."""
    out, into = Base.open(embedded.model_folder()).shape(NAME)
    folder = tmp_path / "their adapter"
    folder.mkdir()
    arrays = {"A": np.ones((4, into), np.float32), "B": np.ones((out, 4), np.float32)}
    named = {f"base_model.model.{NAME}.lora_{part}.weight": array for part, array in arrays.items()}
    save_file(named, folder / "adapter_model.safetensors")
    facts = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "tiny-chat"}
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    return folder


def test_import(cli, theirs: Path, tmp_path: Path):
    result = cli("import", str(theirs))
    assert result.code == 0, result.err
    assert result.out == "their adapter-mlx\n"
    assert (tmp_path / "their adapter-mlx" / "adapters.safetensors").is_file()
    assert "LoRA of rank 4, scale 2, on 1 modules" in result.err
    command = shlex.split(result.err.split("next: ")[1])
    assert command == ["mlx-align", "orpo", "tiny-chat", "--set", "adapter.start=./their adapter-mlx"]


def test_never_over_what_is_there(cli, theirs: Path, tmp_path: Path):
    assert cli("import", str(theirs), "--out", "start").code == 0
    before = (tmp_path / "start" / "adapters.safetensors").read_bytes()
    again = cli("import", str(theirs), "--out", "start", "--base", "tiny-chat")
    assert again.code == 2
    assert "--out" in again.err
    assert (tmp_path / "start" / "adapters.safetensors").read_bytes() == before


def test_the_base_must_be_known(cli, theirs: Path):
    facts = json.loads((theirs / "adapter_config.json").read_text())
    for named, words in ((None, "does not say"), ("./gone", "names its base './gone'")):
        (theirs / "adapter_config.json").write_text(json.dumps({**facts, "base_model_name_or_path": named}))
        result = cli("import", str(theirs))
        assert result.code == 2
        assert words in result.err
        assert "--base" in result.err
    assert cli("import", str(theirs), "--base", "tiny-chat").code == 0


def test_not_an_adapter(cli, tmp_path: Path):
    result = cli("import", str(tmp_path), "--base", "tiny-chat")
    assert result.code == 2
    assert "there is no adapter" in result.err

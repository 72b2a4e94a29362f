from __future__ import annotations

import json
from pathlib import Path

import pytest
from example_run import FINISHED, STOPPED, FakeEngine, make_run, story

from mlx_align import installing
from mlx_align.config import BackendConfig
from mlx_align.toml import from_toml
from mlx_align_cli.commands import doctor


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[BackendConfig]:
    """The backends of the runs that were launched, as their files said at that moment."""
    from mlx_align.engine import launch

    seen: list[BackendConfig] = []

    def start(run):
        seen.append(run.config().backend)
        return FakeEngine(story(end=FINISHED))

    monkeypatch.setattr(launch, "launch", start)
    return seen


def test_the_backend_is_a_flag(cli):
    result = cli("orpo", "--backend", "torch", "--device", "cuda", "--dry-run", "--json")
    settings = json.loads(result.out)
    assert settings["backend.name"] == {"value": "torch", "origin": "flag"}
    assert settings["backend.device"] == {"value": "cuda", "origin": "flag"}
    result = cli("orpo", "--backend", "jax", "--dry-run")
    assert result.code == 2
    assert "backend.name" in result.err


def test_four_bits_on_mlx_are_refused(cli):
    result = cli("orpo", "--set", "backend.quantize=nf4", "--dry-run")
    assert result.code == 2
    assert "needs name 'torch'" in result.err
    good = cli("orpo", "--backend", "torch", "--set", "backend.quantize=nf4", "--dry-run", "--json")
    assert json.loads(good.out)["backend.quantize"]["value"] == "nf4"


def test_a_run_is_moved_and_says_so(cli, launched: list[BackendConfig], root: Path):
    run = make_run(root, story(20, end=STOPPED))
    result = cli("runs", "resume", run.name, "--backend", "torch", "--device", "cpu")
    assert result.code == 0
    assert "backend mlx:auto is now torch:cpu" in result.err
    assert f"{run.name}/config.toml" in result.err
    assert [(b.name, b.device) for b in launched] == [("torch", "cpu")]
    assert from_toml(run.path / "config.toml").backend == launched[0]
    assert run.env()["origins"]["backend.name"] == "runs resume"


def test_a_run_that_is_not_moved_keeps_its_file(cli, launched: list[BackendConfig], root: Path):
    run = make_run(root, story(20, end=STOPPED))
    before = (run.path / "config.toml").read_bytes()
    result = cli("runs", "resume", run.name)
    assert (result.code, launched[0].name) == (0, "mlx")
    assert "is now" not in result.err
    assert (run.path / "config.toml").read_bytes() == before


def test_a_refused_move_changes_nothing(cli, launched: list[BackendConfig], root: Path):
    run = make_run(root, story(20, end=STOPPED))
    before = (run.path / "config.toml").read_bytes()
    result = cli("runs", "resume", run.name, "--backend", "jax")
    assert result.code == 2
    assert "backend.name" in result.err
    assert launched == []
    assert (run.path / "config.toml").read_bytes() == before


def test_doctor_lists_both_backends(cli):
    findings = {finding["name"]: finding for finding in json.loads(cli("doctor", "--json").out)}
    assert findings["device"]["value"].startswith("mlx:")
    assert findings["torch device"]["value"].startswith("torch:")
    assert findings["peft"]["state"] == "ok"


def test_doctor_can_do_without_torch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    (finding,) = doctor._torch()
    assert finding.state == "ok"
    assert installing.command("torch") in finding.value

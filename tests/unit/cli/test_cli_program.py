from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from example_run import FINISHED, make_run, save_checkpoint, story

import mlx_align
from mlx_align import embedded, errors
from mlx_align_cli import main, naming
from mlx_align_cli.commands import doctor, generate

NOBODY = "~nobody-of-this-name/x"


def test_version(cli):
    assert cli("version").out == cli("--version").out == f"{mlx_align.__version__}\n"


def test_help_names_commands_and_exit_codes(cli):
    text = cli("--help").out
    for word in ("orpo", "simpo", "runs", "generate", "doctor", "130 interrupted"):
        assert word in text
    assert "Odds ratio" in cli().out + cli().err


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["orpo", "--help"], ["orpo", "--dry-run"]])
def test_light_commands_load_nothing_heavy(arguments: list[str], tmp_path: Path):
    code = (
        "import sys; from mlx_align_cli import main; main.run(sys.argv[1:]);"
        "heavy = {'mlx', 'mlx_lm', 'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules);"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_a_bug_is_called_a_bug(cli, monkeypatch):
    monkeypatch.setattr("mlx_align_cli.options.resolved", lambda *a, **k: 1 / 0)
    result = cli("orpo")
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert "bug in mlx-align, ZeroDivisionError" in result.err


def test_debug_shows_where_the_bug_is(monkeypatch, capsys):
    monkeypatch.setattr("mlx_align_cli.options.resolved", lambda *a, **k: 1 / 0)
    assert main.run(["--debug", "orpo"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 130])
def test_every_error_has_its_code_and_three_parts(cli, monkeypatch, code: int):
    kind = next(k for k in vars(errors).values() if getattr(k, "exit_code", None) == code)

    def fail(*arguments, **options):
        raise kind("what \x1b[31mhappened", where="file:3", hint="Do this.")

    monkeypatch.setattr("mlx_align_cli.options.resolved", fail)
    result = cli("orpo")
    assert result.code == code
    assert result.err == "error: what ␛[31mhappened\n  where: file:3\n  next:  Do this.\n"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch):
    """Generation answers at once; what it was asked."""
    from mlx_align.engine import generate as engine

    asked: list[tuple] = []

    def fake(config, model, adapter, prompts, **options):
        asked.append((model, adapter, prompts, options))
        return ["an \x1banswer"]

    monkeypatch.setattr(engine, "generate_text", fake)
    monkeypatch.setattr("mlx_align.hub.resolve_model", lambda name, revision=None: mlx_source(name))
    return asked


def mlx_source(name: str):
    from mlx_align.hub import ModelSource

    return ModelSource(Path("/models") / name, name)


def test_generate_from_a_run(cli, answers, root: Path):
    run = make_run(root, story(end=FINISHED))
    assert "saved no adapter" in cli("generate", "last", "Hi").err
    checkpoint = run.path / "checkpoints" / "step-000030"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer.json").write_text("{}")
    assert cli("generate", run.name, "Hi").out == "an \x1banswer\n"
    assert answers[-1][1].resolve() == checkpoint
    run.adapter.mkdir()
    result = cli("generate", "last", "Hi", "--max-tokens", "9", "--seed", "3", "--system", "Be brief.")
    expected = {"system": "Be brief.", "max_tokens": 9, "temperature": 0.0, "top_p": 1.0, "seed": 3}
    _, adapter, prompts, options = answers[-1]
    assert (adapter.resolve(), prompts, options) == (run.adapter, ["Hi"], expected)
    assert "adapter" in result.err
    cli("generate", "last", "Hi", "--checkpoint", "step-000030")
    assert answers[-1][1].resolve() == checkpoint
    cli("generate", "last", "Hi", "--base")
    assert answers[-1][1] is None


def test_generate_with_the_best_checkpoint(cli, answers, root: Path):
    run = make_run(root, story(end=FINISHED))
    best = save_checkpoint(run, 10)
    save_checkpoint(run, 20, best_checkpoint=best.name)
    cli("generate", "last", "Hi", "--checkpoint", "best")
    assert answers[-1][1].resolve() == best


def test_generate_from_an_adapters_folder(cli, answers, root: Path, tmp_path: Path):
    run = make_run(root, story(end=FINISHED))
    folders = [run.adapter, save_checkpoint(run, 10), tmp_path / "stray"]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text("{}")
    for folder in folders[:2]:
        assert cli("generate", str(folder.relative_to(tmp_path)), "Hi").code == 0
        assert answers[-1][1].resolve() == folder
    stray = cli("generate", "./stray", "Hi")
    assert stray.code == 2
    assert "--adapter-path" in stray.err


def test_generate_from_a_model(cli, answers, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin\n"))
    result = cli("generate", embedded.TINY_CHAT, "--json")
    assert json.loads(result.out)["completion"] == "an \x1banswer"
    assert answers[-1][0].name == embedded.TINY_CHAT
    assert answers[-1][2] == ["from stdin"]
    cli("generate", "owner/name", "Hi")
    assert str(answers[-1][0]).endswith("owner/name")


def test_generate_refuses(cli, answers, root: Path):
    make_run(root, story(end=FINISHED))
    for arguments in (
        ["nothing-like-it", "Hi"],
        ["last", "Hi", "--checkpoint", "step-9"],
        ["last", "Hi", "--base", "--checkpoint", "step-9"],
        ["tiny-chat", "Hi", "--base"],
        ["last", ""],
    ):
        result = cli("generate", *arguments)
        assert (result.code, result.out) == (2, "")
    assert answers == []


def test_a_prompt_in_the_place_of_the_run_is_no_bug(cli, answers):
    for name in ("What is it? " * 30, "." + "x" * 300, "x" * 5000):
        result = cli("generate", name, "last")
        assert result.code == 2
        assert "there is no " in result.err
    assert answers == []


def test_generate_without_a_prompt(cli, answers, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert cli("generate", "tiny-chat", "-").code == 2
    monkeypatch.setattr(generate.sys.stdin, "isatty", lambda: True, raising=False)
    assert "no prompt" in cli("generate", "tiny-chat").err


def test_doctor_says_what_is_missing(cli, monkeypatch):
    from mlx_align import backends

    def missing(config):
        raise ImportError("No module named 'mlx'")

    monkeypatch.setattr(backends, "create", missing)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    result = cli("doctor")
    assert result.code == 1
    assert "[cpu]" in result.out
    findings = {finding["name"]: finding for finding in json.loads(cli("doctor", "--json").out)}
    assert findings["device"]["state"] == "missing"
    assert findings["c++ compiler"]["state"] == "note"
    assert findings["mlx-align"]["value"] == mlx_align.__version__


def test_doctor_finds_an_unwritable_runs_folder(monkeypatch, tmp_path: Path):
    def refuse(*, dir):  # noqa: A002
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    found = next(finding for finding in doctor.examine(tmp_path / "runs") if finding.name == "runs folder")
    assert found.state == "missing"
    assert "Permission denied" in found.value


def test_what_to_type_works_without_a_path(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(naming, "which", lambda name: None)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "main.py")])
    monkeypatch.setattr(sys, "executable", str(binaries / "python"))
    assert naming.program() == ".venv/bin/python -m mlx_align_cli.main"
    for name in ("mlx-align", "mlx_lm.generate"):
        (binaries / name).touch()
        assert naming.program(name) == f".venv/bin/{name}"


def test_errors_too_say_what_works_here(cli, monkeypatch, root: Path):
    make_run(root)
    monkeypatch.setattr("mlx_align_cli.errors.program", lambda: "bin/mlx-align")
    assert "`bin/mlx-align runs ls` lists them" in cli("runs", "show", "nothing").err


@pytest.mark.parametrize(
    "command",
    [
        ("generate", NOBODY, "Hi"),
        ("import", NOBODY, "--base", "tiny-chat"),
        ("import", ".", "--base", "tiny-chat", "--out", NOBODY),
        ("export", "last", "--to", "mlx", "--out", NOBODY),
        ("report", "last", "--out", NOBODY),
        ("orpo", "--set", f"runs.dir={NOBODY}"),
    ],
)
def test_the_home_of_nobody_is_no_bug_of_ours_and_nothing_is_made_there(cli, command, tmp_path: Path):
    told = cli(*command)
    assert told.code in (2, 3, 4), told.err
    assert "bug" not in told.err
    assert NOBODY.split("/")[0] in told.err
    assert not list(tmp_path.glob("~*"))


def test_help_has_examples_and_names_its_arguments(cli):
    for command, words in (
        ("orpo", "mlx-align orpo tiny-chat rows.jsonl"),
        ("generate", "PROMPT"),
        ("generate", "--checkpoint best"),
        ("runs", "mlx-align runs resume last"),
    ):
        assert words in cli(command, "--help").out
    assert "Runs to remove" in cli("runs", "rm", "--help").out
    assert "PATH" in cli("config", "init", "--help").out

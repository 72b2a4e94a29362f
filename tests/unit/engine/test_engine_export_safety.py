"""What an export must not touch, and what a verification must not take for another thing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np
import pytest

from mlx_align import embedded
from mlx_align.backends.mlx import plain
from mlx_align.engine.exporting import Exporter, Options, verify_again
from mlx_align.engine.exporting import evidence as gathering
from mlx_align.engine.exporting import readers as reading
from mlx_align.engine.exporting.placing import placed
from mlx_align.engine.exporting.targets import needed_bytes, settle
from mlx_align.errors import AlignError, UsageError
from mlx_align.export.comparing import bits_of
from mlx_align.runs import RunDirectory
from mlx_align.runs.atomic import write_json
from tests.support import small_data
from tests.trained import trained_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return trained_run(tmp_path / "runs")


def fill(path: Path, *, single: bool = False, force: bool = False, text: str = "new") -> None:
    """An export, as far as its place is concerned."""
    with placed(path, single=single, force=force) as folder:
        names = (path.name, f"{path.name}.mlx-align.json") if single else ("weights", "mlx-align.json")
        for name in names:
            (folder / name).write_text(text)


def test_force_replaces_exports_only(tmp_path: Path) -> None:
    """A mistyped --out must not cost a folder of other things, or the base that was grafted onto."""
    mine, gguf = tmp_path / "thesis", tmp_path / "base.gguf"
    mine.mkdir()
    (mine / "text.md").write_text("years of work")
    gguf.write_text("weights")
    for path, single in ((mine, False), (gguf, True)):
        with pytest.raises(UsageError, match="no export"):
            fill(path, single=single, force=True)
    assert (mine / "text.md").read_text() == "years of work"
    assert gguf.read_text() == "weights"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["base.gguf", "thesis"]
    for path, single in ((tmp_path / "a", False), (tmp_path / "a.gguf", True)):
        fill(path, single=single)
        fill(path, single=single, force=True, text="newer")
    assert (tmp_path / "a" / "weights").read_text() == (tmp_path / "a.gguf").read_text() == "newer"
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", force=True)
    assert (tmp_path / "empty" / "weights").is_file()


def test_force_does_not_replace_links(tmp_path: Path) -> None:
    fill(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nothing")
    for name in ("link", "dangling"):
        for force in (False, True):
            with pytest.raises(UsageError, match="is a link"):
                fill(tmp_path / name, force=force)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "weights").read_text() == "new"


def test_the_working_folder_is_a_place_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.md").write_text("mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no export"):
        fill(Path(), force=True)
    assert (tmp_path / "text.md").is_file()


def test_of_two_exports_at_once_the_first_stays(tmp_path: Path) -> None:
    for path, single in ((tmp_path / "a", False), (tmp_path / "a.gguf", True)):
        with pytest.raises(UsageError, match="already something"), placed(path, single=single, force=False):
            fill(path, single=single, text="first")
        assert (path if single else path / "weights").read_text() == "first"


def test_what_was_there_comes_back_if_the_new_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "a", Path.rename
    fill(path)

    def refuse(self: Path, target: Path) -> Path:
        if target == path and (self / "weights").read_text() == "newer":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(AlignError, match="Input/output error"):
        fill(path, force=True, text="newer")
    assert (path / "weights").read_text() == "new"
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def listed(folder: Path) -> dict[str, str]:
    """Every file below a folder and what it says; folders too, which say nothing."""
    return {
        str(item.relative_to(folder)): item.read_text() if item.is_file() else ""
        for item in folder.rglob("*")
    }


@pytest.mark.parametrize(("method", "number"), [("mkdir", 0), ("chmod", 0), ("rename", 0), ("rename", 1)])
@pytest.mark.parametrize("early", [False, True])
def test_a_signal_leaves_what_was_there_or_all_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, number: int, early: bool
) -> None:
    """Whichever moment it comes in: before or after any step by which the new takes the old's place."""
    path = tmp_path / "a"
    fill(path)
    before, does, calls = listed(tmp_path), getattr(Path, method), iter(range(9))

    def interrupted(self: Path, *args: Any, **options: Any) -> Any:
        now = next(calls) == number
        if now and early:
            raise KeyboardInterrupt
        done = does(self, *args, **options)
        if now:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Path, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(path, force=True, text="newer")
    after = before if early or (method, number) != ("rename", 1) else dict.fromkeys(before, "newer")
    assert listed(tmp_path) == after | {"a": ""}


def test_a_failed_export_takes_the_folders_away_that_it_made(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyError), placed(tmp_path / "mine/new/sub/a", single=False, force=False):
        raise KeyError
    assert listed(tmp_path) == {"mine": ""}
    fill(tmp_path / "mine/new/sub/a")
    assert (tmp_path / "mine/new/sub/a/weights").is_file()


def turning_base(folder: Path, **more: Any) -> str:
    """The embedded model with its rotation as transformers 5 writes it."""
    shutil.copytree(embedded.model_folder(), folder)
    facts = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in facts.items() if not key.startswith("rope_")}
    table = {"rope_theta": 500.0, "rope_type": "default"}
    (folder / "config.json").write_text(json.dumps({**kept, "rope_parameters": table, **more}))
    return str(folder)


def test_what_mlx_lm_by_itself_reads_otherwise_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is made, when it is verified again, and to those who get it; and of no other export."""
    monkeypatch.setattr("mlx_align.export.hub_upload.check_access", lambda *args, **options: None)
    monkeypatch.setattr("mlx_align.export.hub_upload.upload", lambda *args, **options: "https://hub")
    right = trained_run(tmp_path / "right", model__path=turning_base(tmp_path / "known"))
    assert Exporter(right).export("mlx").verification.warnings == (), "mlx-lm knows the table of a Qwen 3"
    otherwise = turning_base(tmp_path / "unlike", rope_theta=10000.0)  # and takes this before it
    exporter = Exporter(trained_run(tmp_path / "runs", model__path=otherwise))
    made = exporter.export("hub", options=Options(repo="me/tiny", format="mlx"))
    for said in (made.verification.warnings, verify_again(made.path).warnings):
        assert said == (reading.OTHERWISE,)
    assert "**Note:** mlx-lm by itself reads" in (made.path / "README.md").read_text()
    unseen = Options(verify=False)
    assert exporter.export("mlx", options=unseen).verification.warnings == (reading.OTHERWISE,)
    for target in ("peft", "hf", "mlx-fused"):
        assert exporter.export(target, options=unseen).verification.warnings == ()
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    seen = exporter.export("mlx", tmp_path / "elsewhere").verification
    assert (seen.verified, seen.warnings) == (False, (reading.MAYBE,))


def test_what_mlx_lm_by_itself_cannot_build_it_reads_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(folder: Path, lazy: bool, model_config: dict[str, Any]) -> Any:
        if not model_config:  # as DeepSeek-V2 does
            raise AttributeError("'NoneType' object has no attribute 'get'")
        return nn.Linear(1, 1), {}

    monkeypatch.setattr(plain, "load_model", load)
    assert not plain.reads_alike(Path(turning_base(tmp_path / "model")))


def test_verifying_a_file_tries_that_file(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one of the name that it had once: that may be another by now."""
    tried: list[Path] = []

    class Refusing:
        def __init__(self, model: Path, adapter: Path | None = None, *, context: int = 0) -> None:
            tried.append(model)
            raise AlignError("seen")

    made = Exporter(run).export("gguf").path
    copy = made.with_name("renamed.gguf")
    shutil.copyfile(made, copy)
    shutil.copyfile(f"{made}.mlx-align.json", f"{copy}.mlx-align.json")
    monkeypatch.setattr(reading.llama, "available", lambda: "xllamacpp")
    monkeypatch.setattr(reading.llama, "LlamaReader", Refusing)
    with pytest.raises(AlignError, match="seen"):
        verify_again(copy)
    assert tried == [copy]


@pytest.mark.parametrize(("key", "value"), [("model", "../other"), ("model", ".."), ("loaders", ["pickle"])])
def test_a_manifest_names_nothing_outside(run: RunDirectory, key: str, value: Any) -> None:
    path = Exporter(run).export("mlx").path / "mlx-align.json"
    facts = json.loads(path.read_text())
    facts["written"][key] = value
    path.write_text(json.dumps(facts))
    with pytest.raises(AlignError, match="cannot be read"):
        verify_again(path.parent)


def test_a_long_chat_template_fits_into_llama_cpps_context(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Noting:
        def __init__(self, model: Path, adapter: Path | None = None, *, context: int = 1024) -> None:
            seen.append(context)
            raise AlignError("seen")

    exporter = Exporter(run)
    evidence = exporter.evidence
    object.__setattr__(evidence, "contexts", ((1,) * 3000, *evidence.contexts[1:]))
    monkeypatch.setattr(reading.llama, "available", lambda: "xllamacpp")
    monkeypatch.setattr(reading.llama, "LlamaReader", Noting)
    with pytest.raises(AlignError, match="seen"):
        exporter.export("gguf")
    assert seen[0] > 3000


def test_a_base_that_has_changed_is_refused(tmp_path: Path) -> None:
    """Both sides of the comparison would be made of the wrong weights, and would agree."""
    base = tmp_path / "base"
    shutil.copytree(embedded.model_folder(), base)
    run = trained_run(tmp_path / "runs", model__path=str(base))
    digest = Exporter(run).origin.provenance.base_digest
    write_json(run.path / "env.json", {**run.env(), "weights_fingerprint": digest})
    assert Exporter(run).origin.provenance.base_digest == digest
    facts = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**facts, "rope_theta": 5000.0}))
    with pytest.raises(UsageError, match="not the model that the run was trained on"):
        Exporter(run, None)


def test_an_export_can_be_read_by_whom_the_others_can(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_align.export.hub_upload.check_access", lambda *args, **options: None)
    monkeypatch.setattr("mlx_align.export.hub_upload.upload", lambda *args, **options: "https://hub")
    unseen = Options(verify=False)
    made = [
        Exporter(run).export("ollama", options=unseen).path,
        Exporter(run).export("hub", options=replace(unseen, repo="me/tiny", format="mlx")).path,
    ]
    modes = {file.name: file.stat().st_mode for folder in made for file in folder.iterdir()}
    assert {"Modelfile", "README.md", "mlx-align.json"} <= modes.keys()
    assert len(set(modes.values())) == 1, modes


def test_what_cannot_be_is_refused_before_anything_is_written(run: RunDirectory) -> None:
    for target, options in (
        ("gguf", Options(type="../../q9", verify=False)),
        ("hub", Options(repo="../me", verify=False)),
        ("lmstudio", Options(repo="me/a/b", verify=False)),
    ):
        with pytest.raises(UsageError):
            Exporter(run).export(target, options=options)
    assert not (run.path / "exports").exists()
    made = Exporter(run).export("gguf", options=Options(type="Q8_0", verify=False))
    assert made.path.name.endswith("-q8_0.gguf"), "llama.cpp's own way to say it"


def test_ollama_gets_the_model_where_it_is(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("mlx_align.export.ollama.create", lambda name, folder: asked.append(name))
    for here, command in ((False, "ollama create mine -f "), (True, "ollama run mine")):
        monkeypatch.setattr("mlx_align.export.ollama.installed", lambda here=here: here)
        how = Options(name="mine", verify=False, force=True)
        made = Exporter(run).export("ollama", options=how)
        assert made.next_command.startswith(command)
        assert asked == ["mine"] * here


def test_transformers_takes_no_more_memory_than_there_is(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    exporter = Exporter(run)
    assert exporter.evidence.precision == "f32"
    monkeypatch.setattr(reading, "exactly", lambda config, base: config)  # no room for float32
    opened = reading.opened("torch", exporter.origin.folder, False, exporter.surroundings(), 32)
    with opened as (reader, precision):
        logps = reader.next_logps(exporter.evidence.contexts, exporter.evidence.tokens)
    assert precision == "bf16"
    off = np.abs(np.exp(logps) - np.exp(exporter.evidence.base)).max()
    assert 1e-4 < off < 0.1, "computed with eight bits"


def test_a_base_that_was_moved_is_missed_by_its_place(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(embedded.model_folder(), base)
    run = trained_run(tmp_path / "runs", model__path=str(base))
    base.rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="not where it was") as caught:
        Exporter(run)
    assert caught.value.where == str(base)
    base.symlink_to(tmp_path / "moved")
    assert Exporter(run).origin.folder == base


def test_what_is_published_says_nothing_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths either: the data's names a client, the base's somebody else's repository."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(embedded.model_folder(), tmp_path / "models" / "base")
    small_data(tmp_path / "clients" / "acme", "pair")
    run = trained_run(tmp_path / "runs", model__path="models/base", data__path="clients/acme/train.jsonl")
    exporter = Exporter(run)
    assert exporter.origin.provenance.base == "base"
    made = exporter.export("peft", options=Options(verify=False)).path
    assert json.loads((made / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    for file in made.iterdir():
        assert not {b"clients", b"models/base"} & set(re.findall(b"clients|models/base", file.read_bytes()))
    assert b"train.jsonl" in (made / "mlx-align.json").read_bytes()


def test_every_quantised_type_of_a_gguf_has_its_bits() -> None:
    import gguf

    names = [kind.name for kind in gguf.GGMLQuantizationType if "Q" in kind.name or "FP4" in kind.name]
    assert all(bits_of(name) in range(1, 9) for name in names)


def test_a_right_export_of_a_model_computed_in_bf16_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So are models for which float32 does not fit; two programs then differ by what both round."""
    for module in (gathering, reading):
        monkeypatch.setattr(module, "exactly", lambda config, base: config)
    run = trained_run(tmp_path / "runs", backend__dtype="bfloat16")
    seen = Exporter(run).export("mlx-fused").verification
    assert seen.comparison is not None
    assert seen.comparison.share == pytest.approx(1.0, abs=0.1)
    assert 1e-3 < seen.comparison.difference < 0.1


def test_the_room_that_is_asked_for_is_what_is_taken(run: RunDirectory, tmp_path: Path) -> None:
    """Less would fill the disk, and twice as much refuse what would have fitted."""
    exporter = Exporter(run)
    unseen = Options(verify=False)
    first = exporter.export("gguf", tmp_path / "q8.gguf", replace(unseen, type="q8_0")).path
    for target, options in (
        ("gguf", unseen),
        ("hf", unseen),
        ("mlx-fused", unseen),
        ("gguf", replace(unseen, base_gguf=str(first))),  # whose K-quants could grow to q8_0
    ):
        made = exporter.export(target, tmp_path / f"{target}-{options.base_gguf is None}", options)
        weights = sum(file.stat().st_size for file in _weights(made.path))
        asked = needed_bytes(target, exporter.origin, settle(target, options))
        assert weights <= asked * 1.05, target
        assert asked <= (2.1 if options.base_gguf else 1.2) * weights + 2**20, target


def _weights(path: Path) -> list[Path]:
    return [path] if path.is_file() else list(path.glob("*.safetensors"))

"""Exports from beginning to end, tried by mlx-lm's loader: what is right is named, nothing else stays."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_align import embedded
from mlx_align.config import BackendConfig
from mlx_align.engine.exporting import TARGETS, Exporter, Options, choices, unsent, verify_again
from mlx_align.engine.exporting import readers as reading
from mlx_align.engine.exporting import writers as writing
from mlx_align.engine.exporting.evidence import computed_in, exactly, gather_evidence
from mlx_align.engine.exporting.targets import FORMATS, settle
from mlx_align.errors import AlignError, UsageError
from mlx_align.export import adapter as adapters
from mlx_align.export.adapter import Adapter
from mlx_align.export.base import Base
from mlx_align.export.evidence import Evidence
from mlx_align.runs import RunDirectory
from tests.trained import trained_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return trained_run(tmp_path_factory.mktemp("exporting") / "runs")


@pytest.fixture(scope="module")
def evidence(finished: RunDirectory) -> Evidence:
    return gather_evidence(Exporter(finished).origin)


@pytest.fixture
def run(finished: RunDirectory, tmp_path: Path) -> RunDirectory:
    shutil.copytree(finished.path, tmp_path / "runs" / finished.name)
    return RunDirectory(tmp_path / "runs" / finished.name)


@pytest.fixture
def exporter(run: RunDirectory, evidence: Evidence) -> Exporter:
    made = Exporter(run)
    made.__dict__["evidence"] = evidence  # asked once for all of these tests
    return made


def left_in(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir()) if folder.exists() else []


def test_an_adapter_for_mlx_lm(exporter: Exporter, run: RunDirectory) -> None:
    stages: list[str] = []
    made = Exporter(run, progress=lambda stage, detail: stages.append(stage)).export("mlx")
    assert made.path == run.path / "exports" / "mlx"
    assert left_in(made.path) == ["adapter_config.json", "adapters.safetensors", "mlx-align.json"]
    assert stages == ["writing", "asking", "verifying"]
    figures = made.verification.comparison
    assert figures is not None
    assert figures.kl < 1e-9
    assert figures.effect > 1e-3
    assert figures.share == pytest.approx(1.0, abs=1e-3)
    assert figures.agreement == 1.0
    assert figures.other_tokens == ()
    assert "verified by mlx-lm" in made.verification.line()
    assert str(made.path) in made.next_command
    assert left_in(made.path.parent) == ["mlx"], "nothing hidden is left beside it"


def test_the_evidence_is_the_policys(exporter: Exporter, evidence: Evidence) -> None:
    """Its log-probabilities are those of the plain `logps` of a batch, and policy and base differ."""
    from mlx_align import backends

    origin = exporter.origin
    policy = backends.create(origin.config.backend).load_for_generation(origin.folder, origin.adapter_folder)
    context = list(evidence.contexts[1])
    table = policy.next_logps([context[:-1]])
    assert np.exp(table.astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-4)
    other = policy.next_logps([context])
    np.testing.assert_allclose(
        np.take_along_axis(other, evidence.tokens[1:2], axis=1), evidence.policy[1:2], atol=1e-5
    )
    assert len(evidence.contexts) >= 24
    assert evidence.precision == "f32"
    assert np.abs(evidence.policy - evidence.base).max() > 0.05


def test_what_a_policy_is_computed_in(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    base = exporter.origin.base
    half = BackendConfig(device="cpu", dtype="bfloat16")
    assert exactly(half, base).dtype == "float32", "there is room for it"
    monkeypatch.setattr(Base, "parameters", property(lambda self: 10**14))
    assert exactly(half, base).dtype == "bfloat16"
    assert computed_in(BackendConfig(device="cpu"), "mlx:cpu", base) == "f32"
    assert computed_in(half, "mlx:cpu", base) == "bf16"
    assert computed_in(BackendConfig(), "mlx:metal", base) == "f16", "stored in float32, on a GPU"
    assert (
        computed_in(BackendConfig(name="torch", device="cuda", quantize="nf4"), "torch:cuda", base) == "4-bit"
    )


def test_a_named_checkpoint(run: RunDirectory, evidence: Evidence) -> None:
    assert Exporter(run, "best").origin.adapter_folder == run.path / "checkpoints" / "step-000004"
    assert Exporter(run).origin.provenance.step == 4
    with pytest.raises(UsageError, match="step-9"):
        Exporter(run, "step-9")


def test_provenance_says_where_it_comes_from(exporter: Exporter, run: RunDirectory) -> None:
    path = exporter.export("mlx").path
    facts = json.loads((path / "mlx-align.json").read_text())
    provenance = facts["provenance"]
    assert provenance["base"] == "tiny-chat"
    assert provenance["data_fingerprint"] == run.env()["data_fingerprint"]
    assert provenance["step"] == 4
    assert str(run.path.parent) not in json.dumps(facts), "no folder of a person's travels"
    assert facts["verification"]["verified"]


def test_what_is_there_is_not_replaced_unless_asked(exporter: Exporter) -> None:
    path = exporter.export("mlx").path
    (path / "mine.txt").write_text("notes")
    with pytest.raises(UsageError, match="already something"):
        exporter.export("mlx")
    assert (path / "mine.txt").exists()
    exporter.export("mlx", options=Options(force=True))
    assert not (path / "mine.txt").exists()
    assert left_in(path.parent) == ["mlx"]


def spoiled(kind: str, adapter: Adapter) -> Adapter:
    if kind == "alpha":
        return replace(adapter, scale=adapter.scale / 2)
    if kind == "nothing":
        return replace(adapter, scale=0.0)
    modules = {
        name: replace(module, b=np.ascontiguousarray(module.b[::-1]))
        for name, module in adapter.modules.items()
    }
    return replace(adapter, modules=modules)


@pytest.mark.parametrize("kind", ["alpha", "nothing", "order"])
def test_a_wrong_export_leaves_nothing(
    exporter: Exporter, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write = writing.fused.write
    monkeypatch.setattr(
        writing.fused, "write", lambda folder, adapter, *rest: write(folder, spoiled(kind, adapter), *rest)
    )
    with pytest.raises(AlignError, match="failed its verification") as caught:
        exporter.export("mlx-fused")
    assert caught.value.exit_code == 1
    assert "KL" in caught.value.message
    assert left_in(run.path / "exports") == []
    assert not (run.path / "exports").exists()
    unseen = exporter.export("mlx-fused", options=Options(verify=False))
    assert "--no-verify" in unseen.verification.line()
    with pytest.raises(UsageError, match="--no-verify"):
        verify_again(unseen.path)


def test_a_failure_keeps_what_was_there(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exporter.export("mlx").path
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.mlx, "write", full)
    with pytest.raises(AlignError, match="No space left"):
        exporter.export("mlx", options=Options(force=True))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert left_in(path.parent) == ["mlx"]


def test_without_the_loader_it_is_done_and_says_so(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading.llama, "available", lambda: None)
    made = exporter.export("gguf")
    assert made.path.is_file()
    assert made.verification.line() == "not verified: llama.cpp is not installed"
    assert "pip install" in str(made.verification.hint)
    again = verify_again(made.path)
    assert not again.verified, "the evidence lies beside it for the day it is installed"
    names = left_in(made.path.parent)
    assert names == ["tiny-chat-orpo-f16.gguf", "tiny-chat-orpo-f16.gguf.mlx-align.json"]


def test_verifying_again_needs_neither_run_nor_base(exporter: Exporter, tmp_path: Path) -> None:
    made = exporter.export("mlx-fused").path
    away = tmp_path / "elsewhere" / "model"
    shutil.copytree(made, away)
    shutil.rmtree(exporter.origin.run.path)
    again = verify_again(away, device="cpu")
    assert again.comparison is not None
    assert again.comparison.share == pytest.approx(1.0, abs=1e-3)


def test_verifying_an_adapter_again_finds_its_base(exporter: Exporter, tmp_path: Path) -> None:
    made = exporter.export("mlx").path
    assert verify_again(made).verified, "the run knows"
    away = tmp_path / "elsewhere" / "adapter"
    shutil.copytree(made, away)
    assert verify_again(away, base=str(embedded.model_folder())).verified
    other = tmp_path / "other"
    shutil.copytree(embedded.model_folder(), other)
    facts = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**facts, "rope_theta": 5000.0}))
    with pytest.raises(UsageError, match="not the base"):
        verify_again(away, base=str(other))


def test_a_folders_name_is_not_asked_of_the_hub(
    exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path / "elsewhere" / "adapter"
    shutil.copytree(exporter.export("mlx").path, away)
    path = away / "mlx-align.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["provenance"].update(base="me/model", base_commit=None)
    path.write_text(json.dumps(facts), encoding="utf-8")
    monkeypatch.setattr("mlx_align.hub.models.newest", lambda *_: pytest.fail("the hub was asked"))
    again = verify_again(away)
    assert again.reason == "the base model is not at hand"
    assert again.hint == "Name it with --base: 'me/model'."


def test_verifying_again_sees_what_was_changed(exporter: Exporter) -> None:
    path = exporter.export("mlx").path
    adapter = adapters.read(path)
    adapters.write(path, spoiled("order", adapter))
    with pytest.raises(AlignError, match="not the model that was trained"):
        verify_again(path)
    with pytest.raises(UsageError, match="not there"):
        verify_again(path / "nothing")
    (path / "mlx-align.json").write_text("{")
    with pytest.raises(AlignError, match="cannot be read"):
        verify_again(path)
    (path / "mlx-align.json").unlink()
    with pytest.raises(UsageError, match="no manifest"):
        verify_again(path)


def test_quantisations_are_compared_and_thrown_away(exporter: Exporter, run: RunDirectory) -> None:
    before = left_in(run.path)
    measured = list(choices(exporter, Options()))
    assert [(one.quantization, one.bits) for one in measured] == [("none", None), ("again", 8), ("again", 4)]
    none, eight, four = (one.comparison.kl for one in measured)
    assert none < eight < four
    assert measured[2].size < measured[1].size < measured[0].size
    assert left_in(run.path) == before


def test_options_belong_to_targets() -> None:
    with pytest.raises(UsageError, match="--type has no meaning for --to mlx"):
        settle("mlx", Options(type="q8_0"))
    with pytest.raises(UsageError, match="--bits has no meaning for --to hub"):
        settle("hub", Options(bits=4))
    assert settle("hub", Options(bits=4, format="mlx-fused")).format == "mlx-fused"
    with pytest.raises(UsageError, match="no format 'pdf'"):
        settle("lmstudio", Options(format="pdf"))
    with pytest.raises(UsageError, match="no dtype 'f8'"):
        settle("hf", Options(dtype="f8"))
    with pytest.raises(UsageError, match="no target 'pdf'"):
        settle("pdf", Options())
    assert all(name in TARGETS for formats in FORMATS.values() for name in formats)


def test_the_hub_needs_a_name(exporter: Exporter) -> None:
    with pytest.raises(UsageError, match="name for the repository"):
        exporter.export("hub")


def test_the_hub_gets_a_card_and_what_was_verified(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}

    def upload(folder: Path, repo: str, *, private: bool, message: str) -> str:
        sent.update(files=left_in(folder), repo=repo, private=private)
        return f"https://huggingface.co/{repo}"

    monkeypatch.setattr("mlx_align.export.hub_upload.check_access", lambda repo, private: None)
    monkeypatch.setattr("mlx_align.export.hub_upload.upload", upload)
    made = exporter.export("hub", options=Options(repo="me/my-model", format="mlx"))
    assert made.url == "https://huggingface.co/me/my-model"
    assert sent["private"] is True
    assert {"README.md", "adapters.safetensors", "mlx-align.json"} <= set(sent["files"])
    card = (made.path / "README.md").read_text(encoding="utf-8")
    assert "verified by mlx-lm" in card


class Hub:
    """A hub that takes no upload until it works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known, self.works = True, False
        self.got: list[tuple[str, list[str]]] = []
        monkeypatch.setattr("mlx_align.export.hub_upload.check_access", self.check_access)
        monkeypatch.setattr("mlx_align.export.hub_upload.upload", self.upload)

    def check_access(self, repo: str, *, private: bool) -> None:
        if not self.known:
            raise AlignError("the hub does not know who you are", hint="Log in.")

    def upload(self, folder: Path, repo: str, *, private: bool, message: str) -> str:
        if not self.works:
            raise AlignError("the hub refused: busy", hint="Try again later.")
        self.got.append((repo, left_in(folder)))
        return f"https://hub/{repo}"


def test_who_may_not_upload_is_told_before_anything_is_made(
    exporter: Exporter, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(monkeypatch).known = False
    with pytest.raises(AlignError, match="does not know who you are"):
        exporter.export("hub", options=Options(repo="me/m", format="mlx"))
    assert left_in(run.path / "exports") == []


def test_an_upload_that_failed_is_done_by_the_same_command(
    exporter: Exporter, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, options = Hub(monkeypatch), Options(repo="me/m", format="mlx")
    with pytest.raises(AlignError, match="busy") as caught:
        exporter.export("hub", options=options)
    assert "the same command uploads it" in str(caught.value.hint)
    (name,) = left_in(run.path / "exports")
    before = (run.path / "exports" / name / "adapters.safetensors").stat()
    hub.works = True
    again = Exporter(run)  # another process, which has asked nobody for evidence
    monkeypatch.setattr(
        "mlx_align.engine.exporting.exporter.gather_evidence", lambda origin: pytest.fail("asked")
    )
    made = again.export("hub", options=replace(options, public=True))
    assert (made.url, made.path.name) == ("https://hub/me/m", name)
    assert (made.path / "adapters.safetensors").stat().st_ino == before.st_ino
    assert re.match(r"verified by mlx-lm [\d.]+: largest difference", made.verification.line())
    assert any("made before" in note for note in made.notes)
    assert {"README.md", "mlx-align.json"} <= set(hub.got[0][1])
    with pytest.raises(UsageError, match="already something"):
        again.export("hub", options=options)  # it is done


def test_after_force_the_hint_does_not_make_it_again(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, options = Hub(monkeypatch), Options(repo="me/m", format="mlx", verify=False, force=True)
    with pytest.raises(AlignError, match="busy") as caught:
        exporter.export("hub", options=options)
    assert "the same command without --force uploads it" in str(caught.value.hint)
    hub.works = True
    made = exporter.export("hub", options=replace(options, force=False))
    assert any("made before" in note for note in made.notes)


def test_what_could_not_be_verified_is_before_it_is_sent(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, options = Hub(monkeypatch), Options(repo="me/m", format="mlx")
    with monkeypatch.context() as patch:
        patch.setitem(reading.NEEDS, "mlx", (("not_installed_here",), "mlx-lm", "cpu"))
        with pytest.raises(AlignError, match="busy"):
            exporter.export("hub", options=options)
        with pytest.raises(AlignError, match="busy"):
            exporter.export("hub", options=options)  # there is nothing yet to verify it with
    hub.works = True
    made = exporter.export("hub", options=options)
    assert made.verification.verified
    assert not any("made before" in note for note in made.notes)
    assert "verified by mlx-lm" in (made.path / "README.md").read_text(encoding="utf-8")
    assert not (made.path / unsent.NAME).exists()


def test_what_waits_for_its_upload_is_taken_for_nothing_else(
    exporter: Exporter, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, options = Hub(monkeypatch), Options(repo="me/m", format="mlx-fused", verify=False)
    with pytest.raises(AlignError, match="busy"):
        exporter.export("hub", options=options)
    hub.works = True
    for other in (replace(options, dtype="f16"), replace(options, verify=True)):
        with pytest.raises(UsageError, match="already something"):
            exporter.export("hub", options=other)
    later = Exporter(run)
    provenance = replace(later.origin.provenance, adapter_digest="f" * 64)
    later.origin = replace(later.origin, provenance=provenance)
    with pytest.raises(UsageError, match="already something"):
        later.export("hub", options=options)
    assert hub.got == []
    made = exporter.export("hub", options=replace(options, force=True))
    assert not any("made before" in note for note in made.notes)


def test_repositories_and_formats_have_folders_of_their_own(
    exporter: Exporter, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, unseen = Hub(monkeypatch), Options(verify=False, format="mlx")
    hub.works = True
    for options in (
        replace(unseen, repo="me/a-b"),
        replace(unseen, repo="me-a/b"),
        replace(unseen, repo="me/a-b", format="peft"),
        replace(unseen, repo="me/a-b", format="gguf"),
        replace(unseen, repo="me/a-b", format="gguf", type="q8_0"),
    ):
        exporter.export("hub", options=options)
    assert len(left_in(run.path / "exports")) == len(hub.got) == 5


def test_lm_studios_folder(exporter: Exporter, tmp_path: Path) -> None:
    made = exporter.export("lmstudio", tmp_path / "models", Options(repo="me/tiny", format="mlx-fused"))
    assert made.path == tmp_path / "models" / "me" / "tiny"
    assert made.next_command == "lms load me/tiny"
    assert (made.path / "config.json").is_file()

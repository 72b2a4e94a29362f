"""`mlx-align export` and `verify`: what is asked reaches the exporter, and what came of it is told."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlx_align.engine import exporting
from mlx_align.engine.exporting import Choice, Exported, Options, Verification
from mlx_align.errors import AlignError
from mlx_align.export.comparing import Comparison, Verdict
from mlx_align_cli.commands import export as exports
from mlx_align_cli.commands.export import TARGETS
from tests.unit.cli.example_run import FINISHED, make_run, story

FIGURES = Comparison(
    loader="llama.cpp", contexts=32, difference=0.00012, kl=3e-8, kl_max=1e-7, effect=0.21, share=0.999,
    share_error=0.001, agreement=1.0, other_tokens=(),
)  # fmt: skip


class FakeExporter:
    """Remembers what was asked of it."""

    asked: ClassVar[list[tuple[Any, ...]]] = []
    verification = Verification(FIGURES, warnings=("choose more bits",))

    def __init__(self, run: Any, checkpoint: str | None, progress: Callable[[str, str], None]) -> None:
        self._run, self._progress = run, progress
        FakeExporter.asked.append((run.name, checkpoint))

    def export(self, target: str, out: Path | None, options: Options) -> Exported:
        FakeExporter.asked.append((target, out, options))
        if target == "peft":
            raise AlignError("the export failed its verification: KL is 0.3", where="peft", hint="Look.")
        self._progress("writing", "a merged \x1bmodel")
        path = out or self._run.path / "exports" / "m.gguf"
        return Exported(target, path, 5_300_000, self.verification, ("a note",), f"llama-cli -m {path}")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[tuple[Any, ...]]:
    make_run(root, story(end=FINISHED))
    monkeypatch.setattr(exporting, "Exporter", FakeExporter)
    monkeypatch.setattr(FakeExporter, "asked", [])
    return FakeExporter.asked


def test_the_help_names_every_target(cli: Any) -> None:
    assert TARGETS.split(", ") == list(exporting.TARGETS)
    shown = " ".join(cli("export", "--help").out.split())
    assert "lmstudio" in shown
    assert "--quantization" in shown


def test_options_reach_the_exporter(cli: Any, asked: list[tuple[Any, ...]], tmp_path: Path) -> None:
    done = cli(
        "export", "last", "--to", "gguf", "--type", "q8_0", "--out", "x.gguf", "--checkpoint", "best",
        "--base-gguf", "b.gguf", "--no-verify", "--force",
    )  # fmt: skip
    assert done.code == 0
    (_, checkpoint), (target, out, options) = asked
    assert (checkpoint, target, out) == ("best", "gguf", Path("x.gguf"))
    assert options == Options(type="q8_0", base_gguf="b.gguf", verify=False, force=True)
    cli("export", "--to", "hub", "--repo", "me/m", "--public", "--format", "hf", "--dtype", "bf16")
    assert asked[-1][2] == Options(repo="me/m", public=True, format="hf", dtype="bf16")
    cli("export", "--to", "ollama", "--system", "Be brief.", "--template", "t.gotmpl", "--name", "mine",
        "--parameter", "temperature=0.7", "--parameter", "top_k=20")  # fmt: skip
    assert asked[-1][2] == Options(
        system="Be brief.", template="t.gotmpl", name="mine", parameters={"temperature": 0.7, "top_k": 20.0}
    )
    cli("export", "--to", "mlx-fused", "--quantization", "again", "--bits", "4")
    assert asked[-1][2] == Options(quantization="again", bits=4)


def test_what_a_person_is_told(cli: Any, asked: list[tuple[Any, ...]]) -> None:
    done = cli("export", "--to", "gguf")
    lines = done.out.splitlines()
    assert lines[0].startswith("runs/")
    assert "m.gguf" in lines[0]
    assert lines[1].startswith("verified by llama.cpp: largest difference of a probability 0.00012")
    assert "the same in 32 of 32" in lines[1]
    assert lines[2:4] == ["warning: choose more bits", "note: a note"]
    assert lines[4].startswith("next: llama-cli -m ")
    assert "writing a merged" in done.err
    assert "\x1b" not in done.err


@pytest.mark.parametrize("first", exports.ENDS)
def test_what_is_half_written_is_removed_undisturbed(
    first: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C, or the SIGTERM after it, must not leave gigabytes; one that waits long is let go."""
    now, done = [1000.0], []
    monkeypatch.setattr(exports.time, "monotonic", lambda: now[0])
    before = [signal.getsignal(end) for end in exports.ENDS]
    with pytest.raises(KeyboardInterrupt), exports._cleared_up():  # noqa: PT012
        try:
            with pytest.raises(KeyboardInterrupt if first == signal.SIGINT else SystemExit) as caught:
                signal.raise_signal(first)
            assert first == signal.SIGINT or caught.value.args == (128 + first,)
        finally:
            for end in exports.ENDS:
                signal.raise_signal(end)
            done.append("removed")
        now[0] += exports.GRACE + 1
        signal.raise_signal(signal.SIGINT)
    assert done == ["removed"]
    assert [signal.getsignal(end) for end in exports.ENDS] == before


def test_what_was_not_verified_is_said(
    cli: Any, asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = Verification(None, "llama.cpp is not installed", "Install it with `pip install x`.")
    monkeypatch.setattr(FakeExporter, "verification", unseen)
    done = cli("export", "--to", "gguf")
    assert done.code == 0
    assert "not verified: llama.cpp is not installed" in done.out
    assert "pip install x" in done.out


def test_several_targets_and_json(cli: Any, asked: list[tuple[Any, ...]]) -> None:
    done = cli("export", "--to", "gguf", "--to", "mlx", "--to", "peft", "--json")
    assert done.code == 1
    lines = [json.loads(line) for line in done.out.splitlines()]
    kinds = [(line["type"], line.get("target")) for line in lines]
    assert kinds == [
        ("progress", None), ("exported", "gguf"), ("progress", None), ("exported", "mlx"), ("failed", "peft"),
    ]  # fmt: skip
    assert lines[1]["verification"]["figures"]["kl"] == 3e-8
    assert lines[1]["size"] == 5_300_000
    assert Path(lines[1]["path"]).is_absolute()
    assert "verification" in lines[4]["message"]
    assert "error: the export failed" in done.err
    assert len([one for one in asked if len(one) == 2]) == 1, "one exporter, so the policy is asked once"


def test_quantisations_are_compared(
    cli: Any, asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        Choice("none", None, 10_000_000, FIGURES, Verdict((), ())),
        Choice("again", 4, 3_000_000, FIGURES, Verdict((), ("choose more bits",))),
    ]
    monkeypatch.setattr(exporting, "choices", lambda exporter, options: iter(made))
    done = cli("export", "--to", "mlx-fused", "--quantization", "compare")
    assert "again, 4 bits" in done.out
    assert "choose more bits" in done.out
    assert "Nothing was written" in done.out
    lines = cli("export", "--to", "mlx-fused", "--quantization", "compare", "--json").out.splitlines()
    assert [json.loads(line)["bits"] for line in lines] == [None, 4]
    assert cli("export", "--to", "gguf", "--quantization", "compare").code == 2


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--to", "gguf", "--to", "mlx", "--out", "x"],
        ["no-such-run", "--to", "mlx"],
        ["--to", "ollama", "--parameter", "temperature=warm"],
        ["--to", "ollama", "--parameter", "temperature"],
    ],
)
def test_mistakes(cli: Any, asked: list[tuple[Any, ...]], words: list[str]) -> None:
    assert cli("export", *words).code == 2
    assert not asked


def test_verify(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Any] = []

    def again(path: Path, **options: Any) -> Verification:
        given.append((path, options))
        return results.pop()

    unseen = Verification(None, "llama.cpp is not installed", "Install it.")
    results = [unseen, Verification(FIGURES), Verification(FIGURES, warnings=("choose more bits",))]
    monkeypatch.setattr(exporting, "verify_again", again)
    done = cli("verify", "x.gguf", "--base-gguf", "b.gguf", "--device", "cpu")
    assert (done.code, given[0]) == (
        0, (Path("x.gguf"), {"base": None, "base_gguf": "b.gguf", "device": "cpu"})
    )  # fmt: skip
    assert done.out.startswith("verified by llama.cpp")
    assert "choose more bits" in done.err
    assert json.loads(cli("verify", "x.gguf", "--json").out)["verified"] is True
    missing = cli("verify", "x.gguf", "--json")
    assert missing.code == 1
    assert "llama.cpp is not installed" in missing.err
    assert json.loads(missing.out)["reason"] == "llama.cpp is not installed"

    def differs(path: Path, **options: Any) -> Verification:
        raise AlignError("this is not the model that was trained")

    monkeypatch.setattr(exporting, "verify_again", differs)
    wrong = cli("verify", "x.gguf", "--json")
    assert (wrong.code, json.loads(wrong.out)["verified"]) == (1, False)
    assert cli("verify", "x.gguf").out == ""

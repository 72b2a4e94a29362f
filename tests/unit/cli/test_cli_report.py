"""`mlx-align report` and `mlx-align tui`: what is in the page, what must not be, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from example_run import CRISP, FAILED, FINISHED, SLOPPY, beginning, evaluation, make_run, started, step, story

from mlx_align.events import Alert, Completion, RewardFacts, Rollout, RunFailed, Sample, Scored
from mlx_align.report import page
from mlx_align.runs import RunDirectory
from mlx_align.toml import to_toml
from mlx_align_cli import opening
from mlx_align_cli.commands import tui

Cli = Callable[..., Any]
NASTY = "</style><script>alert('&\"x')</script><img src=x onerror=alert(1)>\x1b[31m\x00\u2028"
VOID = {"meta"}


class Reader(HTMLParser):
    """A strict reader: every element ends where it has to; keeps text, elements and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.styles: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.styles if "style" in self.open else self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(run: RunDirectory) -> Reader:
    return Reader(page(run))


def stands_alone(reader: Reader) -> bool:
    """No scripts, no handlers, nothing that would be fetched."""
    fetching = {
        "script",
        "img",
        "link",
        "iframe",
        "object",
        "embed",
        "video",
        "audio",
        "base",
        "form",
        "image",
        "use",
    }
    names = {name for name, _ in reader.attributes}
    styles = " ".join(reader.styles)
    return (
        not fetching & set(reader.elements)
        and not any(
            name.startswith("on") or name in ("src", "href", "srcset", "xlink:href") for name in names
        )
        and "url(" not in styles
        and "@import" not in styles
    )


def test_a_finished_run_is_told_in_full(root: Path) -> None:
    run = make_run(root, story(end=FINISHED))
    reader = read(run)
    assert stands_alone(reader)
    for words in (
        run.name, "ORPO on tiny-chat · finished · step 60 of 60", "On 160 held-out rows", "kept, step 60",
        SLOPPY, CRISP, "What is 47 + 8?", "Warning at step 0: leak", "Rows: train.jsonl:7.",
        "1,200 to train on, 160 held out", "mlx:cpu (mlx)", "at most 300 MB", "adapter.rank", "data",
    ):  # fmt: skip
        assert words in reader.text, words
    assert reader.elements.count("svg") == 1
    assert "Exports" not in reader.text
    first, last = evaluation(0).metrics, evaluation(60).metrics
    assert first["loss"] == 2.0
    assert re.search(r"loss 2 0\.5\b", reader.text), "before and after, four digits"
    assert last["accuracy"] is not None
    assert f"accuracy – {last['accuracy']:.1%}" in reader.text, (
        "with every margin 0 nothing is right or wrong"
    )


def test_whatever_a_model_or_a_file_says_is_text(root: Path) -> None:
    said = Sample(
        step=0, completions=(Completion(prompt=NASTY, completion=NASTY, chosen=NASTY, rejected=NASTY),)
    )
    alert = Alert(code="odd", message=NASTY, rows=(NASTY,))
    failed = RunFailed(step=3, kind="x", message=NASTY, where=NASTY, hint=NASTY)
    begun = started().model_copy(update={"model": NASTY, "device": NASTY})
    taken = evaluation(0).model_copy(update={"metrics": {NASTY: 1.0, "loss": None}})
    run = make_run(root, [begun, taken, said, alert, failed])
    env = {**run.env(), NASTY: NASTY, "origins": {"optim.lr": NASTY}, "model": {"a": [NASTY, None]}}
    (run.path / "env.json").write_text(json.dumps(env))
    exported = run.path / "exports" / "mlx"
    exported.mkdir(parents=True)
    told = {"target": NASTY, "verification": {"verified": False, "figures": None, "reason": NASTY}}
    (exported / "mlx-align.json").write_text(json.dumps(told))
    html = page(run)
    reader = Reader(html)
    assert stands_alone(reader)
    assert reader.text.count("<script>alert('&\"x')</script>") > 12
    assert "\x1b" not in html
    assert "\x00" not in html


def test_paths_are_cut_to_their_last_part(root: Path) -> None:
    run = make_run(root, [started().model_copy(update={"model": "/home/somebody/models/m"}), *story()[2:]])
    config = run.config()
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"path": "/home/somebody/rows"})}
    )
    (run.path / "config.toml").write_text(to_toml(config))
    env = {
        **run.env(),
        "model_folder": "/home/somebody/models/m",
        "origins": {
            "optim.lr": "file /home/somebody/a.toml",
            "train.seed": "file somebody/my run.toml",
            "eval.every": "user config /Users/somebody/Library/Application Support/mlx-align/config.toml",
            "eval.rows": "preset quick",
        },
    }
    (run.path / "env.json").write_text(json.dumps(env))
    text = read(run).text
    assert "somebody" not in text
    for origin in ("file a.toml", "file my run.toml", "user config config.toml", "preset quick"):
        assert origin in text


def test_a_run_that_has_said_nothing_yet(root: Path) -> None:
    reader = read(make_run(root))
    assert "new · step 0" in reader.text
    assert "The run has taken no step yet." in reader.text
    assert "There were none." in reader.text


def test_how_it_ended_badly(root: Path) -> None:
    assert (
        "Failed at step 9 5 updates were not finite · step 9 · Less."
        in read(make_run(root, [*beginning(), FAILED])).text
    )
    crashed = read(make_run(root, [*beginning(), step(1)], minute=1))
    assert "crashed" in crashed.text
    assert "died without a last word" in crashed.text


def test_a_rollout_shows_its_best_and_worst(root: Path) -> None:
    facts = RewardFacts(mean=0.5, std=0.1)
    one = Scored(prompt="2 + 2?", completion="It is 4.", rewards={"exact": 1.0}, total=1.0)
    rollout = Rollout(
        step=3, number=2, prompts=1, completions=2, reward=facts, rewards={"exact": facts}, spread=0.1,
        advantage_std=1.0, no_signal=0.0, length_mean=4.0, length_max=5, truncated=0.0, tokens=8, seconds=1.0,
        scoring_seconds=0.0, best=one, worst=one.model_copy(update={"completion": "5", "total": 0.0}),
    )  # fmt: skip
    text = read(make_run(root, [*beginning(), rollout])).text
    assert "Sampled for step 3 best: 1 (exact 1) 2 + 2? It is 4. worst: 0" in text


def test_exports_with_what_came_of_them(root: Path) -> None:
    run = make_run(root, story(end=FINISHED))
    folder, file = run.path / "exports" / "peft", run.path / "exports" / "gguf" / "m.gguf"
    folder.mkdir(parents=True)
    file.parent.mkdir()
    file.write_bytes(b"x" * 2_500_000)
    verified = {"verified": True, "reason": None, "figures": {"loader": "llama.cpp", "difference": 0.00123}}
    file.with_name("m.gguf.mlx-align.json").write_text(
        json.dumps({"target": "gguf", "verification": verified})
    )
    (folder / "mlx-align.json").write_text("{")
    text = read(run).text
    assert "gguf m.gguf 2 MB verified by llama.cpp: largest difference of a probability 0.00123" in text
    assert "peft" in text
    assert "its manifest cannot be read" in text


def test_the_page_goes_where_it_is_told(
    root: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(root, story(end=FINISHED))
    result = cli("report", "last")
    assert (result.code, result.out.strip()) == (0, f"runs/{run.name}/report.html")
    written = (run.path / "report.html").read_text(encoding="utf-8")
    assert written == page(run)
    assert cli("report", "last", "-o", "-").out == written
    opened: list[Path] = []
    monkeypatch.setattr("mlx_align_cli.commands.report.open_here", lambda path: bool(opened.append(path)))
    result = cli("report", "last", "-o", "new/r.html", "--open")
    assert (tmp_path / "new/r.html").is_file()
    assert opened == [Path("new/r.html")]
    assert "open the file yourself" in result.err


def test_a_report_that_cannot_be_written(root: Path, cli: Cli, tmp_path: Path) -> None:
    make_run(root, story())
    (tmp_path / "file").write_text("")
    result = cli("report", "last", "-o", "file/r.html")
    assert result.code == 1
    assert "the report cannot be written" in result.err


def test_nothing_is_opened_without_a_desktop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(opening.platform, "system", lambda: "Linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not opening.open_here(tmp_path)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(opening, "which", lambda name: sys.executable)
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: started.append(command))
    assert opening.open_here(tmp_path)
    assert started == [[sys.executable, str(tmp_path.resolve())]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A terminal, and a terminal UI that only remembers where it was to look."""
    seen: list[Path] = []
    monkeypatch.setattr(tui, "on_a_terminal", lambda: True)
    monkeypatch.setattr("mlx_align_tui.run", lambda root: seen.append(root) or 0)
    return seen


def test_without_arguments_the_terminal_ui_opens(cli: Cli, shown: list[Path]) -> None:
    assert cli().code == 0
    assert cli("tui", "--runs-dir", "elsewhere").code == 0
    assert shown == [Path("runs"), Path("elsewhere")]


def test_without_arguments_and_terminal_there_is_help(cli: Cli) -> None:
    result = cli()
    assert "Usage" in result.out + result.err
    assert "report" in result.out + result.err


def test_where_it_is_not_installed_the_help_says_how(
    cli: Cli, shown: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tui, "find_spec", lambda name: None if name == "textual_plot" else find_spec(name))
    result = cli()
    assert "[tui]" in result.err
    assert "Usage" in result.out + result.err
    result = cli("tui")
    assert (result.code, shown) == (2, [])
    assert "'textual-plot', which is not installed" in result.err
    assert "[tui]" in result.err


def test_serving_needs_its_library(cli: Cli, shown: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tui, "find_spec", lambda name: None if name == "textual_serve" else find_spec(name))
    result = cli("tui", "--serve")
    assert result.code == 2
    assert "[tui,serve]" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tui",), "needs a terminal"),
        (("tui", "--port", "80"), "belong to tui --serve"),
        (("tui", "--host", "localhost"), "belong to tui --serve"),
    ],
)
def test_what_the_terminal_ui_refuses(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert words in result.err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), ("127.0.0.1", 8000)),
        (("--port", "0"), ("127.0.0.1", 0)),
        (("--host", "localhost", "--port", "9"), ("localhost", 9)),
    ],
)
def test_it_is_served_to_this_machine_alone(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], expected: tuple[str, int]
) -> None:
    pytest.importorskip("textual_serve")
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr("mlx_align_tui.serve.serve", lambda *arguments: asked.append(arguments))
    assert cli("tui", "--serve", *given).code == 0
    assert asked == [(Path("runs"), *expected)]


@pytest.mark.parametrize(
    ("host", "name", "origin", "admitted"),
    [
        ("127.0.0.1", "127.0.0.1:8000", None, True),
        ("127.0.0.1", "localhost:8000", "http://localhost:8000", True),
        ("127.0.0.1", "[::1]:8000", "http://[::1]:8000", True),
        ("127.0.0.1", "127.0.0.1:8000", "https://evil.example", False),
        ("127.0.0.1", "127.0.0.1:8000", "http://127.0.0.1:9000", False),
        ("127.0.0.1", "127.0.0.1:8000", "null", False),
        ("127.0.0.1", "evil.example:8000", "http://evil.example:8000", False),
        ("127.0.0.1", "", None, False),
        ("0.0.0.0", "mac.local:8000", "http://mac.local:8000", True),
        ("0.0.0.0", "mac.local:8000", "https://evil.example", False),
    ],
)
def test_other_pages_are_kept_out(host: str, name: str, origin: str | None, admitted: bool) -> None:
    pytest.importorskip("textual_serve")
    from mlx_align.serving import Address
    from mlx_align_tui.serve import BrowserServer

    assert BrowserServer(Path("runs"), Address(host, 8000)).admits(name, origin) is admitted

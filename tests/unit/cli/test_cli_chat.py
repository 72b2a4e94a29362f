"""The chat in the terminal, with an engine that answers by a script."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from example_run import FINISHED, make_run, story
from rich.console import Console

from mlx_align.chat import Done, Hello, Token, Turn
from mlx_align.data import load_dataset
from mlx_align.errors import DataError, DeviceAbortError
from mlx_align_cli import repl
from mlx_align_cli.display import voices

BOTH = ["last", "--compare", "base"]
CONTROLS = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")
"""What moves a terminal's cursor or hides it."""


def whole(text: str, **facts: Any) -> Done:
    return Done(**{"id": 1, "text": text, "tokens": 7, "seconds": 2.0, "finished": True, **facts})


class FakeChat:
    """Answers "<who> <seed>: <question>", or what `scripts` makes of the one who is asked a question."""

    made: ClassVar[list[FakeChat]] = []
    voices: ClassVar[tuple[str, ...]] = ("tuned", "base")
    scripts: ClassVar[dict[str, Callable[[str], Any]]] = {}

    def __init__(self, model: Path, adapter: Path | None, backend: Any) -> None:
        self.hello = Hello(
            model=str(model), adapter=str(adapter), voices=self.voices, device="none", notes=("A note.",)
        )
        self.asked: list[tuple[str, tuple[Turn, ...], dict[str, Any]]] = []
        self.cancels = 0
        self.made.append(self)

    def ask(self, who: str, messages: tuple[Turn, ...], **options: Any) -> Iterator[Token | Done]:
        self.asked.append((who, tuple(messages), options))
        question = messages[-1].content
        return self._answer(who, question, f"{who} {options['seed']}: {question}")

    def _answer(self, who: str, question: str, usual: str) -> Iterator[Token | Done]:
        text = self.scripts[question](who) if question in self.scripts else usual
        if isinstance(text, Exception):
            raise text
        for piece in text.splitlines(keepends=True):
            yield Token(id=1, text=piece)
            if self.cancels:
                break
        stopped, self.cancels = self.cancels > 0, 0
        special = "<|im_end|>" if "<|im_end|>" in text else None
        yield whole(text, finished=not stopped, cancelled=stopped, special=special)

    def cancel(self) -> None:
        self.cancels += 1

    def __enter__(self) -> FakeChat:
        return self

    def __exit__(self, *error: object) -> None:
        self.asked.append(("closed", (), {}))


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with an adapter, and engines that are fakes."""
    monkeypatch.setattr(FakeChat, "made", [])
    monkeypatch.setattr(FakeChat, "scripts", {})
    monkeypatch.setattr("mlx_align.chat.Chat", FakeChat)
    made = make_run(root, story(end=FINISHED))
    model = Path(made.env()["model_folder"])
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    made.adapter.mkdir()
    return made.path


@pytest.fixture
def piped(cli: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`chat` with these options and these lines on stdin."""

    def go(lines: str, *options: str) -> Any:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return cli("chat", *options)

    return go


@pytest.fixture
def typed(cli: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`chat` with a person who types these lines; an exception among them happens at the prompt."""

    def go(lines: list[str | BaseException], *options: str) -> Any:
        rest = iter(lines)

        def read(prompt: str) -> str:
            line = next(rest, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        terminal = io.StringIO()
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setattr("builtins.input", read)
        return cli("chat", *options)

    return go


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def said(chat: FakeChat) -> list[tuple[str, list[str]]]:
    return [(who, [turn.content for turn in messages]) for who, messages, _ in chat.asked if who != "closed"]


def test_lines_are_answered_and_become_history(run: Path, piped: Any) -> None:
    result = piped("Hi\n\nAnd?\n//x\n", "last", "--system", "Be brief.", "--seed", "3", "--max-tokens", "9")
    assert (result.code, result.out) == (0, "tuned 3: Hi\ntuned 3: And?\ntuned 3: /x\n")
    assert "A note." in result.err
    (chat,) = FakeChat.made
    assert said(chat) == [
        ("tuned", ["Be brief.", "Hi"]),
        ("tuned", ["Be brief.", "Hi", "tuned 3: Hi", "And?"]),
        ("tuned", ["Be brief.", "Hi", "tuned 3: Hi", "And?", "tuned 3: And?", "/x"]),
    ]
    assert chat.asked[0][2] == {"max_tokens": 9, "temperature": 0.0, "top_p": 1.0, "seed": 3}
    assert chat.asked[-1][0] == "closed"
    assert Path(str(chat.hello.adapter)).resolve() == run / "adapter"


def test_the_better_answer_is_kept_and_goes_on(run: Path, piped: Any) -> None:
    result = piped("Hi\n/left\nSo?\nWell?\n/right\n", *BOTH)
    assert result.code == 0
    assert result.out.startswith("left, base: base 0: Hi\nright, tuned: tuned 0: Hi\n")
    (chat,) = FakeChat.made
    assert said(chat)[2] == ("base", ["Hi", "base 0: Hi", "So?"]), "the chosen answer"
    assert said(chat)[4][1][2:4] == ["So?", "tuned 0: So?"], "the tuned one, where none was chosen"
    first, second = rows(run / "preferences.jsonl")
    assert first == {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "base 0: Hi"}],
        "rejected": [{"role": "assistant", "content": "tuned 0: Hi"}],
    }
    assert second["chosen"][0]["content"] == "tuned 0: Well?"
    assert [message["role"] for message in second["prompt"]] == ["user", "assistant"] * 2 + ["user"]
    assert "2 pairs kept" in result.err
    assert "the better one in 1" in result.err


def test_what_is_kept_is_what_training_reads(run: Path, piped: Any, tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "mine.jsonl"
    questions = "".join(f"Question {n} \u2028 ü?\n/right\n" for n in range(3))
    assert piped(questions, *BOTH, "--save", str(file), "--system", "Be kind.").code == 0
    torn = file.read_bytes().removesuffix(b"\n")
    file.write_bytes(torn)  # whoever wrote it last was killed
    assert "line 4 of" in piped("More\n/left\n", *BOTH, "--save", str(file)).err
    dataset = load_dataset(file, "pair", valid_fraction=0.3, seed=0)
    found = sorted([*dataset.train, *dataset.valid], key=lambda row: row.name)
    assert len(found) == 4
    assert [message["role"] for message in found[0].prompt] == ["system", "user"]
    assert found[0].answers == ("tuned 0: Question 0 \u2028 ü?", "base 0: Question 0 \u2028 ü?")
    assert found[3].answers == ("base 0: More", "tuned 0: More")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (lambda who: "the same", "the two answers are the same"),
        (lambda who: "" if who == "base" else "something", "empty"),
        (lambda who: f"{who} <|im_end|>", "'<|im_end|>' stands in the conversation"),
    ],
)
def test_a_pair_that_training_would_refuse_is_not_kept(
    run: Path, typed: Any, script: Callable[[str], str], words: str
) -> None:
    FakeChat.scripts["Hi"] = script
    result = typed(["Hi", "/right", "Next", "/right"], *BOTH)
    assert words in result.err
    assert "preferences.jsonl:1" not in result.err, "there is no such line"
    assert len(rows(run / "preferences.jsonl")) == 1


def test_blind_answers_have_no_names_until_one_is_chosen(
    run: Path, piped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repl.SystemRandom, "shuffle", lambda self, order: order.reverse())
    FakeChat.scripts["Hi"] = lambda who: {"base": "one", "tuned": "two"}[who]
    result = piped("Hi\n/left\n", *BOTH, "--blind")
    assert result.out == "left: two\nright: one\n"
    assert "left, the tuned answer, is better" in result.err
    assert rows(run / "preferences.jsonl")[0]["chosen"][0]["content"] == "two"


def test_commands(run: Path, typed: Any) -> None:
    first = ["/help", "/retry", "Hi", "/retry", "/temperature 0.5", "/retry", "/seed 40", "/retry"]
    then = ["/right", "/right", "/new", "So?", "/system Be rude.", "/left", "And?", "/system", "Then?"]
    result = typed([*first, *then, "/quit", "never"], *BOTH)
    (chat,) = FakeChat.made
    tuned = [(turns, options["seed"]) for who, turns, options in chat.asked if who == "tuned"]
    texts = [[turn.content for turn in turns] for turns, _ in tuned]
    assert [seed for _, seed in tuned] == [0, 1, 41, 41, 41, 41]
    assert texts[:4] == [["Hi"], ["Hi"], ["Hi"], ["So?"]]
    assert texts[4] == ["Be rude.", "So?", "tuned 41: So?", "And?"]
    assert texts[5][0] == "So?"
    assert chat.asked[4][2]["temperature"] == 0.5
    for words in ("nothing has been asked", "temperature is 0", "kept already", "no two answers", "/seed N"):
        assert words in result.err
    for words in ("the temperature is 0.5", "the seed is 40", "a new conversation", "message is set"):
        assert words in result.err
    assert len(rows(run / "preferences.jsonl")) == 1
    assert result.code == 0


@pytest.mark.parametrize("line", ["/nonsense", "/seed x", "/temperature -1", "/temperature nan", "/left"])
def test_a_wrong_command(run: Path, typed: Any, piped: Any, line: str) -> None:
    result = typed([line, "Hi"], "last")
    assert (result.code, result.out) == (0, "tuned 0: Hi\n"), "a person may go on"
    assert "error: " in result.err
    result = piped(f"{line}\nHi\n", "last")
    assert (result.code, result.out) == (2, ""), "a script is wrong"


def test_what_cannot_be_answered(run: Path, typed: Any, piped: Any) -> None:
    FakeChat.scripts["long"] = lambda who: DataError("the conversation is too long", hint="Begin a new one.")
    FakeChat.scripts["boom"] = lambda who: DeviceAbortError("the device gave up")
    result = typed(["Hi", "long", "So?", "boom", "never"], "last")
    assert result.code == 6
    assert "too long" in result.err
    assert said(FakeChat.made[0])[2][1] == ["Hi", "tuned 0: Hi", "So?"], "the question is forgotten"
    assert said(FakeChat.made[0])[-1][1][-1] == "boom"
    assert piped("long\nHi\n", "last").code == 3


def test_ctrl_c_stops_an_answer(run: Path, typed: Any) -> None:
    def interrupted(who: str) -> str:
        signal.raise_signal(signal.SIGINT)
        return f"{who}\nis\nslow"

    FakeChat.scripts["Hi"] = interrupted
    result = typed(["Hi", "/left", "So?"], *BOTH)
    assert result.code == 0
    assert "an answer was stopped" in result.err
    asked = said(FakeChat.made[0])
    assert asked == [("base", ["Hi"]), ("base", ["So?"]), ("tuned", ["So?"])], "the tuned one was not asked"
    FakeChat.scripts["Slow"] = lambda who: (
        "now whole" if len(FakeChat.made[-1].asked) > 1 else interrupted(who)
    )
    result = typed(["Slow", "/retry"], *BOTH)
    assert result.out.endswith("left, base: now whole\nright, tuned: now whole\n"), "at temperature 0 too"


def test_ctrl_c_twice_leaves(run: Path, typed: Any) -> None:
    press = KeyboardInterrupt()
    result = typed([press, "Hi", press, press, "never"], "last")
    assert (result.code, result.out) == (130, "tuned 0: Hi\n")
    assert "Ctrl-C again leaves" in result.err

    def twice(who: str) -> str:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return "never"

    FakeChat.scripts["Hi"] = twice
    assert typed(["Hi", "never"], "last").code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_does_not_go_together(run: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (
        ["last", "--blind"],
        ["last", "--save", "x.jsonl"],
        ["last", "--compare", "tuned"],
        ["tiny-chat", "--compare", "base"],
        ["nothing-like-it"],
    ):
        assert cli("chat", *arguments).code == 2
    assert FakeChat.made == []
    monkeypatch.setattr(FakeChat, "voices", ("tuned",))
    result = cli("chat", *BOTH)
    assert result.code == 2
    assert "A note." in result.err


def test_a_model_without_an_adapter(run: Path, piped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeChat, "voices", ("base",))
    assert piped("Hi\n", "tiny-chat").out == "base 0: Hi\n"


def test_input_that_is_no_text(run: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hi\n\xff\n"), encoding="utf-8"))
    result = cli("chat", "last")
    assert result.code == 3
    assert "not UTF-8" in result.err
    monkeypatch.setattr(sys, "stdin", io.StringIO("lone \ud800\n"))
    assert cli("chat", "last").out == "tuned 0: lone ?\n"


def test_a_home_is_put_into_the_path_of_pairs(
    run: Path, piped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert piped("Hi\n/left\n", *BOTH, "--save=~/mine.jsonl").code == 0
    assert len(rows(tmp_path / "home" / "mine.jsonl")) == 1
    FakeChat.made.clear()
    result = piped("Hi\n/left\n", *BOTH, "--save=~nobody-of-this-name/mine.jsonl")
    assert result.code == 2
    assert "nobody's home" in result.err
    assert FakeChat.made == [], "told before a model is loaded"
    assert not list(tmp_path.glob("~*"))


def test_a_file_that_cannot_be_written(run: Path, typed: Any) -> None:
    result = typed(["Hi", "/left", "So?"], *BOTH, "--save", "/dev/null/x.jsonl")
    assert result.code == 0
    assert "the pair cannot be kept" in result.err
    assert "tuned 0: So?" in result.out


# On a terminal


@pytest.fixture
def _capable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def shown(width: int, names: list[str]) -> str:
    """What two answers leave on a terminal of this width."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=20, color_system=None)
    with voices.stage(console, names) as stage:
        for place, name in enumerate(names):
            stage.token(place, f"{name} says\n")
            stage.token(place, "\x1b[31mthis")
            stage.done(place, whole(f"{name} says\n\x1b[31mthis", finished=bool(place)))
    return CONTROLS.sub("", file.getvalue()).replace("\r", "")


@pytest.mark.usefixtures("_capable")
def test_two_answers_stand_beside_each_other_on_a_wide_terminal() -> None:
    lines = [line.rstrip() for line in shown(120, ["base", "tuned"]).split("\n")][-5:]
    assert [line.split() for line in lines] == [
        ["base", "tuned"],
        ["base", "says", "tuned", "says"],
        ["␛[31mthis", "␛[31mthis"],
        ["(cut", "off", "after", "7", "tokens", "in", "2.0", "s)", "(7", "tokens", "in", "2.0", "s)"],
        [],
    ]
    assert {line.index("tuned") for line in lines[:2]} == {61}


def test_they_come_one_after_the_other_on_a_narrow_one() -> None:
    text = shown(80, ["base", "tuned"])
    assert text == (
        "base: base says\n␛[31mthis\n(cut off after 7 tokens in 2.0 s)\n"
        "tuned: tuned says\n␛[31mthis\n(7 tokens in 2.0 s)\n"
    )


@pytest.mark.usefixtures("_capable")
def test_a_long_answer_shows_its_end_while_it_grows_and_all_of_it_then() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120, height=10, color_system=None)
    with voices.stage(console, ["base", "tuned"]) as stage:
        stage.token(0, "\n".join(f"line {n}" for n in range(40)))
        while_growing = file.getvalue()
        stage.done(0, whole("\n".join(f"line {n}" for n in range(40)), cancelled=True))
    assert "line 39" in while_growing
    assert "line 9" not in while_growing
    after = file.getvalue().removeprefix(while_growing)
    assert all(f"line {n}" in after for n in range(40))
    assert "(stopped, 7 tokens in 2.0 s)" in after


def test_an_answer_that_never_ends_leaves_no_open_line() -> None:
    file = io.StringIO()
    with voices.stage(Console(file=file), ["tuned"]) as stage:
        stage.token(0, "half")
    assert file.getvalue() == "half\n"

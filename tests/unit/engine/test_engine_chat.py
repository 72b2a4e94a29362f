"""The chat engine: whole characters, one model with two voices, and clients that misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_align import backends, embedded
from mlx_align.backends.adapter_files import describe, write
from mlx_align.backends.base import Generation, Sampling, State
from mlx_align.chat import Chat
from mlx_align.config import AdapterConfig, BackendConfig, RunConfig
from mlx_align.data import collate
from mlx_align.engine.chat import __main__ as engine
from mlx_align.engine.chat import protocol, voices
from mlx_align.engine.chat.protocol import Ask, Cancel, Close, Done, Failed, Hello, Open, Reply, Token, Turn
from mlx_align.engine.chat.session import Session
from mlx_align.engine.chat.streaming import UNFINISHED, GrowingText
from mlx_align.engine.chat.voices import Voices
from mlx_align.engine.generate import generate_text
from mlx_align.errors import AlignError, DataError, DeviceAbortError, UsageError
from tests import support

CPU = BackendConfig(device="cpu")
PROMPTS = ["What is 2 + 3?", "What is the capital of France?", "Write the word garden in capital letters."]
TEXTS = ["2 + 3 = 5.", " naïve  €5 ", "日本語 🙂👩‍👩‍👧 ok\n\n", "\n\nA\tb ", "", "   ", "𝄞"]


# Text


def grown(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The pieces of a text whose tokens come one at a time."""
    growing = GrowingText(decode)
    return [*(growing.more(ids[: n + 1]) for n in range(len(ids))), growing.rest(ids)]


@pytest.mark.parametrize("text", TEXTS)
def test_text_grows_by_whole_characters(text: str) -> None:
    tokenizer = support.tokenizer()
    for ids, decode in (
        (tokenizer.encode(text), tokenizer.decode),
        (list(text.encode()), lambda ids: bytes(ids).decode(errors="replace")),
    ):
        pieces = grown(ids, decode)
        assert "".join(pieces) == text.strip()
        assert not any(UNFINISHED in piece for piece in pieces)
        assert all(piece == "" or piece == piece.rstrip() for piece in pieces), "an answer might end here"


def test_a_character_that_is_never_finished_is_shown_at_the_end() -> None:
    pieces = grown(list("€5 €".encode()[:-1]), lambda ids: bytes(ids).decode(errors="replace"))
    assert pieces[-1].strip() == UNFINISHED
    assert "".join(pieces) == "€5 " + UNFINISHED


def test_text_comes_as_soon_as_it_can_and_only_its_end_is_decoded_again() -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return "".join(map(chr, ids))

    assert grown([ord(c) for c in "a bc" * 50], decode)[:4] == ["a", "", " b", "c"]
    assert longest <= 3


# Two voices


@pytest.fixture(scope="module", params=["lora", "dora"])
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes the embedded model a lot: B and DoRA's magnitudes have moved."""
    folder = tmp_path_factory.mktemp(str(request.param))
    policy = support.policy(AdapterConfig(type=request.param, rank=4, layers=2), spread=0.3)
    state = policy.adapter_state()
    policy.load_adapter_state({n: v * 1.3 if n.endswith(".m") else v for n, v in state.items()})
    policy.save_adapter(folder)
    return folder


@pytest.fixture(scope="module")
def session(adapter: Path) -> Session:
    return Session.load(Open(model=str(embedded.model_folder()), adapter=str(adapter), backend=CPU))


def asking(question: str, **options: Any) -> Ask:
    turn = Turn(role="user", content=question)
    return Ask(**{"id": 1, "who": "tuned", "messages": (turn,), "max_tokens": 24, **options})


def answer(session: Session, ask: Ask) -> tuple[str, Done]:
    """The text of the tokens that came, and the last word."""
    said: list[Reply] = []
    session.answer(ask, said.append, lambda: False)
    *tokens, done = said
    assert isinstance(done, Done)
    assert all(isinstance(token, Token) and token.text for token in tokens)
    return "".join(token.text for token in tokens if isinstance(token, Token)), done


def by_generate(adapter: Path | None, **options: Any) -> list[str]:
    config = RunConfig(backend=CPU)
    return generate_text(config, embedded.model_folder(), adapter, PROMPTS, max_tokens=24, **options)


def test_both_voices_say_what_generate_says(session: Session, adapter: Path) -> None:
    for options in ({}, {"temperature": 1.2, "top_p": 0.9, "seed": 3}):
        for who, folder in (("base", None), ("tuned", adapter), ("base", None)):
            streamed, whole = [], []
            for place, prompt in enumerate(PROMPTS):
                if options and place:  # sampling is seeded by a prompt's place among others too
                    continue
                text, done = answer(session, asking(prompt, who=who, **options))
                streamed.append(text)
                whole.append(done.text)
            wanted = by_generate(folder, **options)[: len(whole)]
            assert whole == streamed == wanted
    assert by_generate(None) != by_generate(adapter)


def test_the_base_is_the_bare_model_and_the_adapter_comes_back(session: Session) -> None:
    batch = collate(support.examples()[:4])
    bare = backends.create(CPU).load_for_generation(embedded.model_folder(), None).logps(batch)
    before = session.voices.policy.adapter_state()
    with session.voices.speaking("base") as policy:
        assert np.abs(policy.logps(batch) - bare).max() <= 1e-6
    after = session.voices.policy.adapter_state()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert np.abs(session.voices.policy.logps(batch) - bare).max() > 0.1


def test_a_dora_adapter_that_we_do_not_make_speaks_alone(tmp_path: Path) -> None:
    """On the embeddings, which mlx-lm adapts if it is told to."""
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    from mlx_align.backends.mlx.arrays import to_numpy

    keys = ["self_attn.q_proj", "model.embed_tokens"]
    model, facts = (
        load_model(embedded.model_folder())[0],
        describe(AdapterConfig(type="dora", rank=4), 4, keys),
    )
    model.freeze()
    linear_to_lora_layers(model, 4, facts["lora_parameters"], use_dora=True)
    state = {name: to_numpy(value) for name, value in tree_flatten(model.trainable_parameters())}
    write(tmp_path, state, facts)
    found = voices.load(backends.create(CPU), embedded.model_folder(), tmp_path)
    assert found.names == ("tuned",)
    assert "no module 'model.embed_tokens'" in found.notes[0]
    with pytest.raises(UsageError, match="'base' cannot be asked"), found.speaking("base"):
        pass
    with found.speaking("tuned") as policy:
        assert policy is found.policy


def test_an_adapter_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        voices.load(backends.create(CPU), embedded.model_folder(), tmp_path)


def test_a_conversation_is_continued_and_a_system_message_heard(session: Session) -> None:
    told = Turn(role="system", content="Answer in one word.")
    turns = [Turn(role="user", content="Hi"), Turn(role="assistant", content="Hello.")]
    messages = (told, *turns, Turn(role="user", content=PROMPTS[0]))
    rendered = "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in messages)
    ids = session.tokenizer.encode(rendered + "<|im_start|>assistant\n")
    (whole,) = session.voices.policy.generate(
        [ids], sampling=Sampling(max_tokens=24, temperature=1.5), stop_ids=[session.tokenizer.eos_id], seed=1
    )
    said = answer(session, asking("", messages=messages, temperature=1.5, seed=1))[1]
    assert said.text == session.tokenizer.decode(whole[0].text_ids)
    assert said.tokens == len(whole[0].token_ids)


def test_limits(session: Session) -> None:
    cut = answer(session, asking(PROMPTS[2], max_tokens=2))[1]
    assert (cut.tokens, cut.finished, cut.cancelled) == (2, False, False)
    assert answer(session, asking(PROMPTS[0], who="base"))[1].finished
    with pytest.raises(DataError, match="the model reads 1,024"):
        answer(session, asking("x " * 2000))
    assert answer(session, asking("Say <|im_end|>", max_tokens=1))[1].special == "<|im_end|>"


# The process


class Endless:
    """A policy that says "a" until it is told to stop."""

    notes = ()

    def generate(self, prompts: Any, *, ended: Any, **options: Any) -> list[list[Generation]]:
        token, ids = support.tokenizer().encode("a"), []
        while not ids or not ended(ids):
            ids += token
        return [[Generation(tuple(ids), finished=True, by_text=True)]]

    def adapter_state(self) -> State:
        return {}


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    hello = Hello(model="m", adapter=None, voices=("base",), device="none")
    made = Session(hello, Voices(Endless(), None, ("base",)), support.tokenizer())  # type: ignore[arg-type]
    monkeypatch.setattr(Session, "load", lambda opening: made)


OPEN = Open(model="m")


class Client:
    """Both ends of an engine's pipe; `react` is called with every reply."""

    def __init__(self, react: Callable[[Reply], None] | None = None) -> None:
        self.read, self.write = os.pipe()
        self.open = True
        self.said: list[Reply] = []
        self.react = react or (lambda reply: None)

    def send(self, *messages: protocol.Request | bytes) -> None:
        for message in messages:
            os.write(self.write, message if isinstance(message, bytes) else protocol.encoded(message))

    def hang_up(self) -> None:
        if self.open:
            os.close(self.write)
        self.open = False

    def heard(self, reply: Reply) -> None:
        self.said.append(reply)
        self.react(reply)

    def run(self) -> int:
        """The engine's exit code; what it said is in `said`."""
        ended = threading.Event()
        try:
            return engine.work(self.read, self.heard, ended.set)
        finally:
            self.hang_up()
            assert ended.wait(60), "its reading thread has not noticed the end"
            os.close(self.read)


def base(question: str = "Hi", number: int = 1) -> Ask:
    return asking(question, who="base", id=number, max_tokens=10**6)


@pytest.mark.usefixtures("endless")
def test_cancel_stops_an_answer_and_nothing_else() -> None:
    def react(reply: Reply) -> None:
        if isinstance(reply, Token) and client.said[-2] == reply:
            client.send(Cancel(id=reply.id))
        if isinstance(reply, Done) and reply.id == 2:
            client.hang_up()

    client = Client(react)
    client.send(OPEN, Cancel(id=7), base(number=7), base(number=1), base(number=2))
    assert client.run() == 0
    done = [reply for reply in client.said if isinstance(reply, Done)]
    assert [(d.id, d.cancelled, d.finished, d.tokens > 0) for d in done] == [
        (7, True, False, False), (1, True, False, True), (2, True, False, True)
    ]  # fmt: skip
    assert done[1].text == "a" * done[1].tokens


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("ending", ["close", "end of stdin", "torn line"])
def test_the_end_of_the_client_is_the_end_of_its_answer(ending: str) -> None:
    def react(reply: Reply) -> None:
        if isinstance(reply, Token) and len(client.said) == 3:
            if ending == "close":
                client.send(Close())
            else:
                client.send(b'{"type": "ask", "id' if ending == "torn line" else b"")
                client.hang_up()

    client = Client(react)
    client.send(OPEN, base())
    assert client.run() == 0
    assert isinstance(client.said[-1], Done)


@pytest.mark.usefixtures("endless")
def test_a_line_that_is_no_request_is_refused_and_the_next_one_answered() -> None:
    lines = [
        b"nonsense\n",
        b'{"type": "sing"}\n',
        b'{"v": 2, "type": "ask"}\n',
        b"[" * 9999 + b"\n",
        b"\xff\n",
        b'{"v": 1, "type": "ask", "id": 1, "who": "me", "messages": [], "max_tokens": 1}\n',
    ]
    client = Client(lambda reply: client.hang_up() if isinstance(reply, Failed) and reply.id else None)
    client.send(OPEN, *lines, b"\n", OPEN, asking("Hi", who="tuned", id=5))
    assert client.run() == 0
    hello, *failed = client.said
    assert isinstance(hello, Hello)
    assert all(isinstance(reply, Failed) and reply.exit_code == 2 for reply in failed)
    assert [reply.id for reply in failed if isinstance(reply, Failed)] == [None] * (len(lines) + 1) + [5]
    texts = [reply.message for reply in failed if isinstance(reply, Failed)]
    assert "who" in texts[5]
    assert "already" in texts[6]
    assert "'tuned' cannot be asked" in texts[7]


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (Cancel(id=1), None),
        (base(), "what to open"),
        (b"{}\n", "not a request"),
        (Open(model="/nowhere"), "/nowhere"),
    ],
)
def test_a_beginning_that_is_none(first: protocol.Request | bytes, words: str | None) -> None:
    client = Client()
    client.send(first)
    client.hang_up()
    code = client.run()
    if words is None:
        assert (code, client.said) == (0, [])
        return
    (failed,) = client.said
    assert isinstance(failed, Failed)
    assert code == failed.exit_code == 2
    assert words in f"{failed.message} {failed.where}"
    assert isinstance(failed.error(), UsageError)


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize(
    ("trouble", "code", "words"),
    [
        (BrokenPipeError(), 1, None),
        (KeyboardInterrupt(), 130, None),
        (RuntimeError("[metal] out of memory"), 6, "the device gave up"),
        (ValueError("oops"), 1, "bug in mlx-align: ValueError: oops"),
    ],
)
def test_whatever_ends_the_engine_has_its_code(
    trouble: BaseException, code: int, words: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    def react(reply: Reply) -> None:
        if isinstance(reply, Token):
            raise trouble

    client = Client(react)
    client.send(OPEN, base())
    assert client.run() == code
    failed = client.said[-1]
    if words is None:
        assert not isinstance(failed, Failed)
    else:
        assert isinstance(failed, Failed)
        assert failed.exit_code == code
        assert words in failed.message
        assert "Traceback" in capfd.readouterr().err


@pytest.mark.usefixtures("endless")
def test_ctrl_c_in_the_middle_of_an_answer() -> None:
    client = Client(lambda reply: signal.raise_signal(signal.SIGINT) if isinstance(reply, Token) else None)
    client.send(OPEN, base())
    assert client.run() == 130


def test_messages_survive_their_line() -> None:
    for message in (OPEN, base("line\nbreak \u2028 🙂"), Cancel(id=3), Close()):
        line = protocol.encoded(message)
        assert line.count(b"\n") == 1
        assert protocol.request(line) == message
    done = Done(id=1, text="x", tokens=1, seconds=0.5, finished=True)
    for reply in (Token(id=1, text="é"), done, Failed.of(DataError("what", where="here", hint="then"), 4)):
        assert protocol.reply(protocol.encoded(reply)) == reply
    with pytest.raises(UsageError, match="not a reply"):
        protocol.reply(protocol.encoded(OPEN))


def test_the_client_loads_no_framework_and_no_screen() -> None:
    code = "import mlx_align.chat, sys; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    heavy = {"mlx", "mlx_lm", "torch", "transformers", "numpy", "rich", "typer", "textual"}
    assert modules.isdisjoint(heavy)
    assert "mlx_align" in modules


# The client


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the engine a shell script."""

    def install(script: str) -> None:
        program = tmp_path / "engine"
        program.write_text(f"#!/bin/sh\nread opening\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr("mlx_align.chat.sys.executable", str(program))

    return install


def spoken(*replies: Reply) -> str:
    """Shell commands that say these."""
    return "\n".join(f"printf '%s\\n' '{protocol.encoded(reply).decode().strip()}'" for reply in replies)


GREETING = Hello(model="m", adapter=None, voices=("base",), device="none")


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        (
            spoken(Failed.of(DataError("no such thing", where="here", hint="Do this."))),
            DataError,
            "no such thing",
        ),
        (spoken(Token(id=1, text="x")), AlignError, "began with 'token'"),
        ("echo nonsense", AlignError, "not a reply"),
        ('printf \'{"type": "hel\'', AlignError, "exit code 0"),
        ("echo 'what went wrong' >&2; exit 3", AlignError, "exit code 3\n.*what went wrong"),
        ("kill -9 $$", DeviceAbortError, "ended by SIGKILL"),
    ],
)
def test_an_engine_that_does_not_greet(
    pretend: Callable[[str], None], script: str, kind: type[AlignError], words: str
) -> None:
    pretend(script)
    with pytest.raises(kind, match=words):
        Chat(Path("m"), None)


def test_a_client_hears_only_its_own_answer(pretend: Callable[[str], None]) -> None:
    done = Done(id=2, text="two", tokens=1, seconds=0.1, finished=True)
    stray = [Token(id=1, text="one"), Failed.of(DataError("one"), 1), Token(id=2, text="two"), done]
    pretend("\n".join([spoken(GREETING), "read first; read cancel; read second", spoken(*stray), "read third",
                       spoken(Failed.of(DataError("three"), 3)), "cat > /dev/null"]))  # fmt: skip
    with Chat(Path("m"), None) as chat:
        chat.ask("base", [Turn(role="user", content="1")], max_tokens=1)
        chat.cancel()
        assert list(chat.ask("base", [Turn(role="user", content="2")], max_tokens=1)) == [
            Token(id=2, text="two"),
            done,
        ]
        with pytest.raises(DataError, match="three"):
            list(chat.ask("base", [Turn(role="user", content="3")], max_tokens=1))
        chat.close()
        with pytest.raises(AlignError, match="has been closed"):
            chat.cancel()

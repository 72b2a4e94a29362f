"""A scripted chat engine: it speaks as `mlx_align.engine.chat` does, and loads nothing.

`python fake_chat.py SCRIPT`, the script being "ok", "alone" (no base), "broken" (cannot load), "late:FILE"
(says hello when there is such a file) or "endless" (never does). What is asked decides the answer:

    long     does not end until it is cancelled
    hang     neither answers nor hears that it is to stop
    die      the process kills itself in the middle of the answer
    refuse   is refused
    same     both voices say the same
    which    the name of the adapter's folder
    markup   holds what a screen could take for its own markup
    else     "WHO SEED: QUESTION", a word at a time
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from pathlib import Path

from mlx_align.engine.chat.protocol import (
    Ask,
    Cancel,
    Close,
    Done,
    Failed,
    Hello,
    Open,
    Reply,
    Request,
    Token,
    encoded,
    request,
)

REQUESTS: queue.Queue[Request] = queue.Queue()
CANCELLED: set[int] = set()
LOADED: list[str] = []
"""The name of the adapter's folder, once there is one."""
PACE = threading.Event()


def read() -> None:
    """Put requests where `main` finds them; cancels are noted at once."""
    for line in sys.stdin.buffer:
        said = request(line)
        if isinstance(said, Cancel):
            CANCELLED.add(said.id)
        REQUESTS.put(said)
    REQUESTS.put(Close())


def say(reply: Reply) -> None:
    """Send a reply."""
    os.write(1, encoded(reply))


def answer(ask: Ask) -> None:
    """Answer by the script above."""
    question = ask.messages[-1].content
    number = ask.id
    if question == "refuse":
        say(Failed(id=number, message="the conversation is too long", hint="Begin a new one.", exit_code=3))
        return
    if question == "hang":
        while True:
            PACE.wait()
    if question == "die":
        say(Token(id=number, text="I feel "))
        sys.stderr.write("out of memory\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    text, seconds = "", 2.0
    if question == "long":
        while number not in CANCELLED:
            say(Token(id=number, text="and so on "))
            text += "and so on "
            PACE.wait(0.005)
        say(Done(id=number, text=text, tokens=99, seconds=seconds, finished=False, cancelled=True))
        return
    system = next((turn.content for turn in ask.messages if turn.role == "system"), "")
    whole = {
        "same": "We agree.",
        "which": " ".join(LOADED),
        "markup": "[red]a[/red] [b] [/] \x1b[31m",
    }.get(question, f"{ask.who} {ask.seed}: {question}" + (f" ({system})" if system else ""))
    words = whole.split(" ")
    for n, word in enumerate(words):
        say(Token(id=number, text=word if n == len(words) - 1 else f"{word} "))
    say(Done(id=number, text=whole, tokens=24, seconds=seconds, finished=True))


def main(script: str) -> None:
    """Load by the script, and answer until stdin ends."""
    threading.Thread(target=read, daemon=True).start()
    opening = REQUESTS.get()
    assert isinstance(opening, Open)
    LOADED.append(Path(opening.adapter or "").name)
    if script == "broken":
        say(
            Failed(
                message="the model cannot be read", where="config.json", hint="Fetch it again.", exit_code=2
            )
        )
        return
    kind, _, awaited = script.partition(":")
    while kind == "late" and not Path(awaited).exists():
        PACE.wait(0.02)
    if script != "endless":
        voices = ("tuned",) if script == "alone" else ("tuned", "base")
        notes = ("The base is not here.",) if script == "alone" else ()
        say(Hello(model="m", adapter="a", voices=voices, device="none", notes=notes))  # type: ignore[arg-type]
    while not isinstance(said := REQUESTS.get(), Close):
        if isinstance(said, Ask):
            answer(said)


if __name__ == "__main__":
    main(sys.argv[1])

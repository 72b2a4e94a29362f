"""A chat template taken apart: the texts between a conversation's messages, found by looking and proved.

Ollama does not read a model's Jinja chat template; it wants one in Go's template language. Translating one
language into the other would mean understanding both. Instead the Jinja template is asked to render
conversations of marker words, and what stands between the words is taken: a text for each pair of
neighbouring roles. A template is of this shape if conversations that are put together from these texts
alone are what the template itself makes of them; that is tried for every model, and a template that is not
of this shape is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlx_align.data.rows import Message
from mlx_align.data.templates import ChatTokenizer
from mlx_align.errors import DataError, UsageError

SystemPlace = Literal["first", "last", "none"]
"""Where the system message's text stands: before everything, before the last user message, or nowhere."""

START, REPLY = "start", "reply"
"""What stands for a role at the ends: nothing was said yet; the model is to answer."""

MARKERS = {"system": "Zqsystemqz", "user": "Zqaskedqz", "assistant": "Zqansweredqz"}
CONTENTS = (
    'A first question.\n\nWith {{ .Role }} and """ in it, and a \\ too',
    "An answer - with *marks*",
    "é ü 日本 🙂 <b>?",
    '{"a": [1, 2]}',
    "And a last one %d",
)
"""What the proof's conversations say; templates may strip blanks at a message's ends, so there are none."""

_WAY_OUT = "Write a Go template for the model (ollama.com, 'Modelfile') and name it: --template FILE."


@dataclass(frozen=True)
class ChatFormat:
    """A chat template of the common shape.

    Attributes:
        between: (role before, role after) -> the text between their messages; `START` and `REPLY` count as
            roles. ("system", "user") is there if there is a place for a system message.
        system: where the system message's text stands.
        stops: texts at which an answer ends.
    """

    between: Mapping[tuple[str, str], str]
    system: SystemPlace
    stops: tuple[str, ...]

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt for the next answer: what the model's own template makes of the conversation.

        Args:
            messages: perhaps a system message, then user and assistant in turn; the user speaks last.
        """
        system = next((m["content"] for m in messages if m["role"] == "system"), None)
        turns = [m for m in messages if m["role"] != "system"]
        text, before = "", START
        if system is not None and self.system == "first":
            text, before = self.between[START, "system"] + system, "system"
        for number, turn in enumerate(turns, 1):
            text += self.between[before, turn["role"]]
            if system is not None and self.system == "last" and number == len(turns):
                text += system + self.between["system", "user"]
            text, before = text + turn["content"], turn["role"]
        return text + self.between[before, REPLY]


def find_format(chat: ChatTokenizer, adds_bos: bool | None = None) -> ChatFormat:
    """Take a model's chat template apart, and prove that it was put together right.

    Args:
        chat: the model's tokenizer and chat template.
        adds_bos: whether the program that reads the texts puts BOS before everything, so that it must not be
            in them too; None: as the tokenizer does.

    Raises:
        UsageError: the template is not of the common shape.
    """
    between = _without_system(chat)
    place, parts = _system(chat)
    between |= parts
    stops = _stops(chat, between["assistant", "user"])
    whole = ChatFormat(between, place, stops)
    _prove(chat, whole)
    begin = _begin(chat, adds_bos)
    trimmed = {
        (before, after): text.removeprefix(begin) if before == START else text
        for (before, after), text in between.items()
    }
    return ChatFormat(trimmed, place, stops)


def _marked(*roles: str) -> list[Message]:
    return [Message(role=role, content=f"{MARKERS[role]}{at}") for at, role in enumerate(roles)]


def _render(chat: ChatTokenizer, messages: Sequence[Message]) -> str:
    return chat.render(messages, add_generation_prompt=True, name="chat template")


def _texts_between(text: str, messages: Sequence[Message]) -> list[str] | None:
    """What stands before, between and after messages in a text; None unless each is there once, in order."""
    parts: list[str] = []
    for message in messages:
        before, found, text = text.partition(message["content"])
        if not found or message["content"] in text:
            return None
        parts.append(before)
    return [*parts, text]


def _without_system(chat: ChatTokenizer) -> dict[tuple[str, str], str]:
    messages = _marked("user", "assistant", "user")
    try:
        texts = _texts_between(_render(chat, messages), messages)
    except DataError as error:
        raise _not_of_this_shape(error.message) from None
    if texts is None:
        raise _not_of_this_shape("the messages are not in it once each, in their order")
    pairs = [(START, "user"), ("user", "assistant"), ("assistant", "user"), ("user", REPLY)]
    return dict(zip(pairs, texts, strict=True))


def _system(chat: ChatTokenizer) -> tuple[SystemPlace, dict[tuple[str, str], str]]:
    """Where the system message goes, and the texts around it."""
    messages = _marked("system", "user", "assistant", "user")
    try:
        text = _render(chat, messages)
    except DataError:  # Gemma 2's template, for one, allows none
        return "none", {}
    system, first, answer, last = messages
    if system["content"] not in text:
        return "none", {}
    if texts := _texts_between(text, messages):
        return "first", {(START, "system"): texts[0], ("system", "user"): texts[1]}
    if texts := _texts_between(text, [first, answer, system, last]):  # Mistral's
        return "last", {("system", "user"): texts[3]}
    raise _not_of_this_shape("the system message is neither before the first nor before the last question")


def _prove(chat: ChatTokenizer, found: ChatFormat) -> None:
    """Conversations of one and of five turns, with and without a system message, must come out the same."""
    roles = ("user", "assistant") * 3
    for turns in (1, 5):
        talk = [
            Message(role=role, content=content)
            for role, content in zip(roles, CONTENTS[-turns:], strict=False)
        ]
        system = Message(role="system", content="Be brief.\nBe kind.")
        for messages in [talk] if found.system == "none" else [talk, [system, *talk]]:
            try:
                own = _render(chat, messages)
            except DataError as error:
                raise _not_of_this_shape(error.message) from None
            if found.render(messages) != own:
                raise _not_of_this_shape(f"a conversation of {len(messages)} messages comes out otherwise")


def _begin(chat: ChatTokenizer, adds_bos: bool | None) -> str:
    """What comes before every text by itself: the BOS token, or nothing."""
    if adds_bos is not None:
        return (getattr(chat.tokenizer, "bos_token", None) or "") if adds_bos else ""
    alone = chat.encode("a")
    whole = list(chat.tokenizer.encode("a", add_special_tokens=True))
    starts = [at for at in range(len(whole)) if whole[at : at + len(alone)] == alone]
    return chat.decode(whole[: starts[0]]) if starts and starts[0] else ""


def stop_texts(chat: ChatTokenizer) -> tuple[str, ...]:
    """The texts of the tokens that end an answer."""
    return tuple(text for stop in sorted(chat.stop_ids) if (text := chat.decode([stop]).strip()))


def _stops(chat: ChatTokenizer, turn_end: str) -> tuple[str, ...]:
    """The texts of the end tokens; and how an answer's turn ends, where that is not by one of them."""
    texts = stop_texts(chat)
    if any(text in turn_end for text in texts):
        return texts
    lines = [line.strip() for line in turn_end.splitlines() if line.strip()]
    return texts + tuple(lines[:1])


def _not_of_this_shape(reason: str) -> UsageError:
    return UsageError(
        f"the chat template cannot be put into Ollama's form: {reason}",
        where="chat template",
        hint=_WAY_OUT,
    )


def go_template(chat_format: ChatFormat) -> str:
    """The same format in Go's template language, as Ollama calls it.

    Ollama gives all system messages as `.System`, and the conversation as `.Messages`, in which messages of
    one role in a row are one. Texts stand as quoted strings, because Go would cut blanks off bare ones.
    """
    middle = chat_format.between
    if chat_format.system == "first":
        opening = f'{_go(middle[START, "system"])}{{{{ .System }}}}{{{{ $before = "system" }}}}'
        head = [f"{{{{- if .System }}}}{opening}{{{{ end }}}}"]
        after_system = [f'{{{{- else if eq $before "system" }}}}{_go(middle["system", "user"])}']
    else:
        head, after_system = [], []
    late = ""
    if chat_format.system == "last":
        is_last = "and $.System (eq (len (slice $.Messages $at)) 1)"
        late = f"{{{{ if {is_last} }}}}{{{{ $.System }}}}{_go(middle['system', 'user'])}{{{{ end }}}}"
    lines = [
        f'{{{{- $before := "{START}" }}}}',
        *head,
        "{{- range $at, $message := .Messages }}",
        '{{- if eq .Role "user" }}',
        f'{{{{- if eq $before "{START}" }}}}{_go(middle[START, "user"])}',
        *after_system,
        f"{{{{- else }}}}{_go(middle['assistant', 'user'])}",
        f'{{{{- end }}}}{late}{{{{ .Content }}}}{{{{ $before = "user" }}}}',
        f'{{{{- else if eq .Role "assistant" }}}}{_go(middle["user", "assistant"])}'
        '{{ .Content }}{{ $before = "assistant" }}',
        "{{- end }}",
        "{{- end }}",
        f'{{{{- if ne $before "assistant" }}}}{_go(middle["user", REPLY])}{{{{ end }}}}',
    ]
    return "\n".join(lines)


def _go(text: str) -> str:
    """An action that prints a text; nothing for no text."""
    return f'{{{{ "{_escaped(text)}" }}}}' if text else ""


def _escaped(text: str) -> str:
    """The inside of a Go string. What is not printable is escaped: Ollama drops it from a Modelfile."""
    named = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return "".join(
        named.get(letter) or (letter if letter.isprintable() else f"\\U{ord(letter):08x}") for letter in text
    )

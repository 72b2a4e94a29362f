"""From one JSON object to one row: a prompt, and the answers that are learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from mlx_align.data.answers import final_answer
from mlx_align.data.jsonl import json_type
from mlx_align.errors import DataError
from mlx_align.methods import METHODS
from mlx_align.methods.base import RowKind

ROLES = ("system", "user", "assistant", "tool")

WANTED: dict[RowKind, str] = {
    "completion": "'prompt' and 'completion', or 'messages'",
    "pair": "'prompt', 'chosen' and 'rejected', or 'chosen' and 'rejected' as whole conversations",
    "prompt": "'prompt', 'question', 'problem' or 'messages', and perhaps 'answer' or 'solution'",
}
"""The keys of each kind of row, in words."""

QUESTIONS = ("prompt", "question", "problem", "messages")
"""Keys that hold the prompt of a row without an answer to learn from; of several, the first here counts."""

MEANINGFUL = ("tool_calls", "function_call", "reasoning_content", "thinking", "images")
"""Keys of a message that change what it says; as only its content is used, they are refused."""

_WHOLE = "If it holds the whole conversation, remove the key 'prompt' from the row."
_UNPAIRED = "Keep only the rows whose label is true."


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


PromptIdentity = tuple[tuple[str, str], ...]
"""(role, content) of each message: a prompt as a value that can be compared and hashed."""


@dataclass(frozen=True)
class Row:
    """One row of the data.

    Attributes:
        name: "file.jsonl:12", for every message about it.
        prompt: the conversation so far; it does not end with the assistant.
        answers: (completion,) or (chosen, rejected); () where the policy itself is to answer.
        prompt_key: the key that holds the prompt: "prompt", "messages", "chosen", "question" or "problem".
        answer: the right answer that rewards compare with, None where a row has none; for prompts only.
        extra: all columns but the prompt's as they stand in the file, for rewards; for prompts only.
    """

    name: str
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    prompt_key: str = "prompt"
    answer: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def answer_keys(self) -> tuple[str, ...]:
        """The key that holds each of `answers`."""
        if not self.answers:
            return ()
        if len(self.answers) == 2:
            return ("chosen", "rejected")
        return ("messages",) if self.prompt_key == "messages" else ("completion",)

    @property
    def prompt_identity(self) -> PromptIdentity:
        """Rows with equal ones ask the same."""
        return tuple((message["role"], message["content"]) for message in self.prompt)


@dataclass(frozen=True)
class _Source:
    """One line of a file, and how to refuse what stands on it."""

    path: Path | str
    line: int
    row: Mapping[str, Any]

    def error(self, key: str | None, message: str, hint: str | None = None) -> DataError:
        return DataError.at(self.path, self.line, key, message, hint)

    def missing(self, key: str, hint: str) -> DataError:
        """An error about a key that is not there; it lists those that are, for a typo to be seen."""
        present = ", ".join(f"'{name}'" for name in self.row)
        return self.error(key, f"the row has no '{key}'; it has {present}", hint)


def parse_row(kind: RowKind, path: Path | str, line: int, row: Mapping[str, Any]) -> Row:
    """The row that one JSON object describes.

    A pair is `prompt`, `chosen` and `rejected` as text; the same as message lists, each answer one
    assistant message; or `chosen` and `rejected` alone, two conversations that differ only in the
    assistant's last turn. A completion is `prompt` and `completion`, or `messages` that end with the
    assistant's turn: that turn is learnt, and all before it, the assistant's own included, is the prompt. A
    prompt stands under one of QUESTIONS, as text or as a message list, with the right answer in `answer`
    (where it ends in "#### 42" or in \\boxed{42}, that counts) or at the end of `solution`, or without one.
    Other keys are allowed and left alone.

    Raises:
        DataError: the object has another shape, a value has the wrong type, or nothing could be learnt
            from it; it names file, line and key.
    """
    source = _Source(path, line, row)
    if kind == "prompt":
        return _prompt(source)
    prompt, answers, prompt_key = _completion(source) if kind == "completion" else _pair(source)
    return Row(f"{path}:{line}", prompt, answers, prompt_key)


_Parts = tuple[tuple[Message, ...], tuple[str, ...], str]


def _pair(source: _Source) -> _Parts:
    missing = [key for key in ("chosen", "rejected") if key not in source.row]
    if len(missing) == 2:
        raise _unknown_shape(source, "pair")
    if missing:
        raise source.missing(missing[0], f"A pair has {WANTED['pair']}.")
    parts = _with_prompt(source, ("chosen", "rejected")) if "prompt" in source.row else _implicit(source)
    _, (chosen, rejected), _ = parts
    if chosen == rejected:
        raise source.error(
            "rejected", "'rejected' is the same as 'chosen', so there is no preference to learn"
        )
    return parts


def _completion(source: _Source) -> _Parts:
    if "completion" not in source.row and "messages" not in source.row:
        raise _unknown_shape(source, "completion")
    if source.row.get("label") is False:
        raise source.error("label", "it marks a bad answer, which would be learnt as a good one", _UNPAIRED)
    if "completion" not in source.row:
        prompt, answer = _conversation(source, "messages")
        return prompt, (answer,), "messages"
    if "messages" in source.row:
        raise source.error("messages", "the row also has 'completion'", "Keep one of the two.")
    if "prompt" not in source.row:
        raise source.missing("prompt", f"A row has {WANTED['completion']}.")
    return _with_prompt(source, ("completion",))


def _prompt(source: _Source) -> Row:
    """A prompt that the policy answers, and what its rewards may look at."""
    key = next((key for key in QUESTIONS if key in source.row), None)
    if key is None:
        raise _unknown_shape(source, "prompt")
    prompt = _question(source, key)
    extra = {name: value for name, value in source.row.items() if name != key}
    return Row(f"{source.path}:{source.line}", prompt, (), key, _right_answer(source), extra)


def _right_answer(source: _Source) -> str | None:
    """The final answer that a row gives; of a whole solution only what is marked as such in it."""
    value = source.row.get("answer")
    if value is None:
        solution = source.row.get("solution")
        return final_answer(solution) if isinstance(solution, str) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise source.error("answer", f"'answer' must be text or a number and is {json_type(value)}")
    return final_answer(value) or _not_blank(source, "answer", value)


def _unknown_shape(source: _Source, kind: RowKind) -> DataError:
    """The error for a row without any wanted key, with the methods that it would suit."""
    keys, other = source.row.keys(), None
    if kind == "completion" and keys >= {"chosen", "rejected"}:
        other = "pair"
    elif kind == "pair" and (keys >= {"prompt", "completion"} or "messages" in keys):
        other = "completion"
    elif kind == "prompt" and keys >= {"chosen", "rejected"}:
        other = "pair"
    elif kind != "prompt" and "answer" in keys and keys & {*QUESTIONS}:
        other = "prompt"
    found = ", ".join(f"'{key}'" for key in keys) or "no keys"
    hint = None
    if other is not None:
        suited = ", ".join(method.name for method in METHODS.values() if method.rows == other)
        hint = f"Rows like this one suit: {suited}."
    return source.error(None, f"the row has {found}; wanted: {WANTED[kind]}", hint)


def _with_prompt(source: _Source, keys: tuple[str, ...]) -> _Parts:
    """The prompt under its own key; the answers as text, or each as one assistant message."""
    conversational = {key: _is_messages(source, key) for key in ("prompt", *keys)}
    for key in keys:
        if conversational[key] and not conversational["prompt"]:
            raise source.error(key, "'prompt' is text and this is a message list", _WHOLE)
        if conversational[key] != conversational[keys[0]]:
            raise source.error(key, f"'{keys[0]}' and '{key}' must both be text or both be message lists")
    return _question(source, "prompt"), tuple(_answer(source, key) for key in keys), "prompt"


def _question(source: _Source, key: str) -> tuple[Message, ...]:
    """A prompt under its own key: text that the user says, or a message list."""
    if _is_messages(source, key):
        prompt = _messages(source, key)
    else:
        prompt = (Message(role="user", content=source.row[key]),)
    _check_prompt(source, key, prompt)
    return prompt


def _implicit(source: _Source) -> _Parts:
    """Two conversations that share everything but the assistant's last turn."""
    for key in ("chosen", "rejected"):
        if not _is_messages(source, key):
            raise source.missing("prompt", f"A pair has {WANTED['pair']}.")
    prompt, chosen = _conversation(source, "chosen")
    other, rejected = _conversation(source, "rejected")
    if prompt != other:
        raise source.error("rejected", "its conversation differs from that of 'chosen' before the last turn")
    return prompt, (chosen, rejected), "chosen"


def _conversation(source: _Source, key: str) -> tuple[tuple[Message, ...], str]:
    """A message list that ends with the answer: what comes before it, and the answer."""
    if not _is_messages(source, key):
        raise source.error(key, "it must be a message list and is text")
    *before, last = _messages(source, key)
    if last["role"] != "assistant":
        raise source.error(key, f"the last message must be the assistant's and is the {last['role']}'s")
    _check_prompt(source, key, tuple(before))
    return tuple(before), _not_blank(source, key, last["content"])


def _answer(source: _Source, key: str) -> str:
    """An answer that stands beside its prompt: text, or a list of one assistant message."""
    if not _is_messages(source, key):
        return _not_blank(source, key, source.row[key])
    messages = _messages(source, key)
    if [message["role"] for message in messages] != ["assistant"]:
        raise source.error(key, "beside 'prompt' it must be exactly one assistant message", _WHOLE)
    return _not_blank(source, key, messages[0]["content"])


def _is_messages(source: _Source, key: str) -> bool:
    value = source.row[key]
    if not isinstance(value, str | list):
        raise source.error(key, f"'{key}' must be text or a message list and is {json_type(value)}")
    return isinstance(value, list)


def _messages(source: _Source, key: str) -> tuple[Message, ...]:
    """A message list whose messages are well formed."""
    items = source.row[key]
    if not items:
        raise source.error(key, "the message list is empty")
    return tuple(_message(source, key, number, item) for number, item in enumerate(items, start=1))


def _message(source: _Source, key: str, number: int, item: Any) -> Message:
    if not isinstance(item, dict):
        raise source.error(key, f"message {number} must be an object and is {json_type(item)}")
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        said = f"'{role}'" if isinstance(role, str) else json_type(role)
        raise source.error(key, f"message {number} has the role {said}; it must be one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise source.error(key, f"message {number}: 'content' must be text and is {json_type(content)}")
    if lost := [name for name in MEANINGFUL if item.get(name)]:
        raise source.error(key, f"message {number} has '{lost[0]}', which would be lost: only text is learnt")
    if role == "system" and number > 1:
        raise source.error(key, f"message {number} is a system message; only the first one may be")
    return Message(role=role, content=content)


def _check_prompt(source: _Source, key: str, prompt: tuple[Message, ...]) -> None:
    if not any(m["content"].strip() for m in prompt if m["role"] in ("user", "system")):
        raise source.error(key, "the prompt is empty: no user or system message says anything")
    if prompt[-1]["role"] == "assistant":
        raise source.error(
            key, "the prompt ends with the assistant's turn; the answer must follow the user's"
        )


def _not_blank(source: _Source, key: str, answer: str) -> str:
    if not answer.strip():
        raise source.error(key, "the answer is empty")
    return answer

"""From rows to token ids: one prompt, and the branches that continue it.

A branch begins exactly where the prompt with its generation prompt ends, and ends with exactly one
end-of-turn token. What is trained is therefore what the model reads and writes when it answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mlx_align.data.rows import Message, Row
from mlx_align.data.templates import ChatTokenizer
from mlx_align.errors import DataError

TooLong = Literal["drop", "truncate-prompt", "error"]
"""What to do with a row longer than the limit, as in `config.DataConfig.too_long`."""

LEAST_PROMPT = 32
"""Tokens that must be left of a prompt that is cut: what opens the answer, and a sentence of the question."""


@dataclass(frozen=True)
class Example:
    """One row as token ids.

    Attributes:
        name: "file.jsonl:12".
        prompt_ids: at least one token; the generation prompt included.
        branch_ids: one continuation for each answer, each ending with an end-of-turn token; none where the
            policy itself is to answer.
        prompt_text: the rendered prompt, whole even where `prompt_ids` was cut.
        question: what the user says last, for display.
        answers: the answers as they stand in the file.
        answer, extra: what rewards look at, as in `Row`.
    """

    name: str
    prompt_ids: tuple[int, ...]
    branch_ids: tuple[tuple[int, ...], ...]
    prompt_text: str
    question: str
    answers: tuple[str, ...]
    answer: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def length(self) -> int:
        """Tokens of the prompt and its longest branch."""
        return len(self.prompt_ids) + max(map(len, self.branch_ids), default=0)


@dataclass(frozen=True)
class Tokenized:
    """What became of the rows: the examples, and the names of rows left out or cut for their length."""

    examples: tuple[Example, ...]
    dropped: tuple[str, ...]
    truncated: tuple[str, ...]


def tokenize_rows(
    rows: Sequence[Row], tokenizer: ChatTokenizer, *, max_length: int, too_long: TooLong, reserved: int = 0
) -> Tokenized:
    """Render and encode every row.

    Args:
        rows: at least one.
        tokenizer: from `wrap_tokenizer`.
        max_length: longest prompt plus answer, in tokens.
        too_long: leave a longer row out, cut the beginning of its prompt but for a BOS token (where the
            answers leave room for LEAST_PROMPT tokens; else leave the row out), or refuse it.
        reserved: tokens of `max_length` to keep free, for an answer that the policy will write.

    Raises:
        DataError: the template refuses a row, a text contains a special token, a row is too long and
            `too_long` is "error", or no row is left.
    """
    examples: list[Example] = []
    dropped: list[str] = []
    truncated: list[str] = []
    lengths: list[int] = []
    for row in rows:
        example = _tokenize(row, tokenizer)
        lengths.append(example.length + reserved)
        if lengths[-1] <= max_length:
            examples.append(example)
        elif too_long == "error":
            raise _too_long(row, example, max_length, reserved)
        elif too_long == "truncate-prompt" and (
            shorter := _cut_prompt(example, max_length - reserved, tokenizer)
        ):
            examples.append(shorter)
            truncated.append(row.name)
        else:
            dropped.append(row.name)
    if not examples:
        raise DataError(
            f"all {len(rows)} rows are longer than data.max_length = {max_length} tokens:"
            f" the shortest has {min(lengths)}, the longest {max(lengths)}",
            hint=f"Set data.max_length to {max(lengths)} to keep all of them.",
        )
    return Tokenized(tuple(examples), tuple(dropped), tuple(truncated))


def render_prompt(
    tokenizer: ChatTokenizer, messages: Sequence[Message], *, name: str | None = None
) -> tuple[str, list[int]]:
    """The text and the token ids after which the model answers; training and generation both begin here.

    Args:
        tokenizer: from `wrap_tokenizer`.
        messages: a conversation that the assistant is to continue.
        name: the row's, for messages.

    Raises:
        DataError: the template refuses the conversation.
    """
    text = tokenizer.render(messages, add_generation_prompt=True, name=name)
    ids = tokenizer.encode(text)
    if not ids:
        raise DataError("the chat template makes nothing of this prompt", where=name)
    return text, ids


def _tokenize(row: Row, tokenizer: ChatTokenizer) -> Example:
    _refuse_special_tokens(row, tokenizer)
    text, ids = render_prompt(tokenizer, row.prompt, name=row.name)
    branches = tuple(tuple(_branch(row, answer, text, ids, tokenizer)) for answer in row.answers)
    if len(set(branches)) < len(branches):
        message = "once rendered by the chat template it is the same as 'chosen'"
        raise DataError.at(row.name, None, row.answer_keys[-1], message)
    question = next((m["content"] for m in reversed(row.prompt) if m["role"] == "user"), text)
    return Example(row.name, tuple(ids), branches, text, question, row.answers, row.answer, row.extra)


def _refuse_special_tokens(row: Row, tokenizer: ChatTokenizer) -> None:
    """A token such as <|im_end|> inside the text would end the turn there, or begin another."""
    texts = [(row.prompt_key, message["content"]) for message in row.prompt]
    for key, text in [*texts, *zip(row.answer_keys, row.answers, strict=True)]:
        if special := tokenizer.special_text_in(text):
            message = f"the text contains the model's special token {special}"
            raise DataError.at(row.name, None, key, message, "Remove it: the chat template adds its own.")


def _branch(
    row: Row, answer: str, prompt_text: str, prompt_ids: list[int], tokenizer: ChatTokenizer
) -> list[int]:
    """The answer's tokens after the prompt's, ending with one end-of-turn token and nothing after it."""
    turns = [*row.prompt, Message(role="assistant", content=answer)]
    rendered = tokenizer.render(turns, add_generation_prompt=False, name=row.name)
    if not rendered.startswith(prompt_text):
        # The template rewrites the past, or its generation prompt opens what a finished turn does not show.
        _, _, tail = rendered.rpartition(answer.strip())
        return [*_continue(prompt_text, prompt_ids, answer, tokenizer), _end_of_turn(tail, tokenizer)]
    response = rendered.removeprefix(prompt_text)
    ids = _continue(prompt_text, prompt_ids, response, tokenizer)
    for position, token in enumerate(ids):
        if token in tokenizer.stop_ids:
            return ids[: position + 1]
    # The template does not close the turn: what stands before the answer and the answer stay, the rest goes.
    lead, found, _ = response.rpartition(answer.strip())
    ids = _continue(prompt_text, prompt_ids, lead + found if found else answer, tokenizer)
    return [*ids, tokenizer.eos_id]


def _continue(prompt_text: str, prompt_ids: list[int], text: str, tokenizer: ChatTokenizer) -> list[int]:
    """The tokens of a text that follows the prompt.

    Encoded together with the prompt, because a SentencePiece tokenizer would put a space before a text on
    its own; alone where the tokenizer would otherwise merge across the border, as the model cannot do.
    """
    together = tokenizer.encode(prompt_text + text)
    if together[: len(prompt_ids)] == prompt_ids:
        return together[len(prompt_ids) :]
    return tokenizer.encode(text)


def _end_of_turn(tail: str, tokenizer: ChatTokenizer) -> int:
    """The template's own end-of-turn token, read from what it puts after an answer."""
    return next((token for token in tokenizer.encode(tail) if token in tokenizer.stop_ids), tokenizer.eos_id)


def _cut_prompt(example: Example, max_length: int, tokenizer: ChatTokenizer) -> Example | None:
    """The example with the end of its prompt only, or None where the branches leave too little room for it.

    A BOS token stays where it is: models that were taught with one read badly without.
    """
    room = max_length - max(map(len, example.branch_ids), default=0)
    if room < LEAST_PROMPT:
        return None
    first = example.prompt_ids[:1]
    begin = first if first == (tokenizer.tokenizer.bos_token_id,) else ()
    return replace(example, prompt_ids=begin + example.prompt_ids[len(begin) - room :])


def _too_long(row: Row, example: Example, max_length: int, reserved: int) -> DataError:
    keys = row.answer_keys
    longest = max(range(len(keys)), key=lambda which: len(example.branch_ids[which]), default=None)
    answer = f" and an answer of up to {reserved}" if longest is None else " and answer"
    return DataError.at(
        row.name,
        None,
        row.prompt_key if longest is None else keys[longest],
        f"prompt{answer} have {example.length + reserved} tokens; data.max_length is {max_length}",
        "Raise data.max_length, or set data.too_long to 'drop' or 'truncate-prompt'.",
    )

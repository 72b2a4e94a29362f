"""Every accepted shape, and every row that is refused, with the key at fault."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_align.data import Row, parse_row
from mlx_align.errors import DataError
from mlx_align.methods.base import RowKind


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def row(*prompt: dict[str, str], answers: tuple[str, ...], key: str = "prompt") -> Row:
    return Row("d.jsonl:7", tuple(prompt), answers, key)  # type: ignore[arg-type]


def parse(kind: RowKind, **fields: Any) -> Row:
    return parse_row(kind, "d.jsonl", 7, fields)


AB = {"chosen": "A", "rejected": "B"}
AB_MESSAGES = {"chosen": [assistant("A")], "rejected": [assistant("B")]}
TALK = [system("Be brief."), user("Hi"), assistant("Hello"), user("Why?")]


def test_a_pair_of_texts() -> None:
    parsed = parse("pair", prompt="Hi", chosen="Hello", rejected="um hi", score=0.5, id=None)
    assert parsed == row(user("Hi"), answers=("Hello", "um hi"))
    assert parsed.answer_keys == ("chosen", "rejected")


def test_a_pair_with_a_conversation_and_messages() -> None:
    parsed = parse("pair", prompt=TALK, **AB_MESSAGES)
    assert parsed == row(*TALK, answers=("A", "B"))


def test_a_pair_with_a_conversation_and_texts() -> None:
    assert parse("pair", prompt=TALK, **AB) == row(*TALK, answers=("A", "B"))


def test_a_pair_with_an_implicit_prompt() -> None:
    parsed = parse("pair", chosen=[*TALK, assistant("A")], rejected=[*TALK, assistant("B")])
    assert parsed == row(*TALK, answers=("A", "B"), key="chosen")


def test_a_completion_of_texts() -> None:
    parsed = parse("completion", prompt="Hi", completion="Hello", label=True)
    assert parsed == row(user("Hi"), answers=("Hello",))
    assert parsed.answer_keys == ("completion",)


def test_a_completion_of_messages() -> None:
    assert parse("completion", prompt=TALK, completion=[assistant("A")]) == row(*TALK, answers=("A",))


def test_messages_that_end_with_the_answer() -> None:
    parsed = parse("completion", messages=[*TALK, assistant("A")], prompt="only a column", source="web")
    assert parsed == row(*TALK, answers=("A",), key="messages")
    assert parsed.answer_keys == ("messages",)


def test_a_tool_result_may_come_before_the_answer() -> None:
    tool = {"role": "tool", "content": "21 degrees"}
    assert parse("completion", messages=[user("Warm?"), tool, assistant("Yes")]).prompt[-1] == tool


@pytest.mark.parametrize(
    ("fields", "key", "about"),
    [
        ({"prompt": "Hi", "chosen": "A"}, "rejected", "the row has no"),
        ({"prompt": "Hi", "rejected": "A"}, "chosen", "the row has no"),
        (AB, "prompt", "the row has no"),
        ({"prompt": "Hi", "chosen": [assistant("A")], "rejected": "B"}, "chosen", "'prompt' is text"),
        ({"prompt": "Hi", **AB_MESSAGES}, "chosen", "remove the key"),
        ({"prompt": TALK, "chosen": "A", "rejected": [assistant("B")]}, "rejected", "both be text or both"),
        ({"prompt": TALK, "chosen": [user("A")], "rejected": [assistant("B")]}, "chosen", "one assistant"),
        ({"prompt": TALK, **AB_MESSAGES, "chosen": [*TALK, assistant("A")]}, "chosen", "one assistant"),
        ({"prompt": None, **AB}, "prompt", "is null"),
        ({"prompt": "Hi", "chosen": 42, "rejected": "B"}, "chosen", "is a number"),
        ({"prompt": "Hi", "chosen": "A", "rejected": True}, "rejected", "is true"),
        ({"prompt": {"text": "Hi"}, **AB}, "prompt", "is an object"),
        ({"prompt": " \n", **AB}, "prompt", "the prompt is empty"),
        ({"prompt": [user(" ")], **AB}, "prompt", "the prompt is empty"),
        ({"prompt": [], **AB}, "prompt", "the message list is empty"),
        ({"prompt": [user("Hi"), assistant("A")], **AB}, "prompt", "ends with the assist"),
        ({"prompt": "Hi", "chosen": "A", "rejected": "\t"}, "rejected", "the answer is empty"),
        ({"prompt": "Hi", "chosen": "A", "rejected": "A"}, "rejected", "the same as 'chosen'"),
        ({"prompt": ["Hi"], **AB}, "prompt", "message 1 must be an object and is text"),
        ({"prompt": [{"role": "robot", "content": "Hi"}], **AB}, "prompt", "'robot'"),
        ({"prompt": [{"content": "Hi"}], **AB}, "prompt", "the role null"),
        ({"prompt": [{"role": "user"}], **AB}, "prompt", "'content' must be text"),
        ({"prompt": [{"role": "user", "content": ["Hi"]}], **AB}, "prompt", "is a list"),
        ({"prompt": [user("Hi"), system("No.")], **AB}, "prompt", "message 2 is a system"),
        ({"chosen": [*TALK, assistant("A")], "rejected": [TALK[1], assistant("B")]}, "rejected", "differs"),
        ({"chosen": [*TALK, assistant("A")], "rejected": TALK}, "rejected", "must be the assistant's"),
        (AB_MESSAGES, "chosen", "the prompt is empty"),
    ],
)  # fmt: skip
def test_a_pair_that_cannot_be_used_is_refused(fields: dict[str, Any], key: str, about: str) -> None:
    with pytest.raises(DataError) as caught:
        parse("pair", **fields)
    assert caught.value.where == f"d.jsonl:7, key '{key}'"
    assert about in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "key", "about"),
    [
        ({"completion": "A"}, "prompt", "the row has no"),
        ({"prompt": "Hi", "completion": [assistant("A")]}, "completion", "'prompt' is text"),
        ({"prompt": "Hi", "completion": ""}, "completion", "the answer is empty"),
        ({"prompt": "Hi", "completion": "A", "messages": TALK}, "messages", "Keep one"),
        ({"prompt": "Hi", "completion": "A", "label": False}, "label", "a bad answer"),
        ({"messages": "Hi"}, "messages", "is text"),
        ({"messages": TALK}, "messages", "the last message must be the assistant's and is the user's"),
        ({"messages": [assistant("A")]}, "messages", "the prompt is empty"),
        ({"messages": [user("Hi"), {**assistant("A"), "tool_calls": [{}]}]}, "messages", "'tool_calls'"),
    ],
)  # fmt: skip
def test_a_completion_that_cannot_be_used_is_refused(fields: dict[str, Any], key: str, about: str) -> None:
    with pytest.raises(DataError) as caught:
        parse("completion", **fields)
    assert caught.value.where == f"d.jsonl:7, key '{key}'"
    assert about in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "fields", "methods"),
    [
        ("pair", {"prompt": "Hi", "completion": "A"}, "sft"),
        ("pair", {"messages": [user("Hi"), assistant("A")]}, "sft"),
        ("completion", {"prompt": "Hi", **AB}, "orpo, dpo, simpo"),
    ],
)
def test_rows_of_another_kind_get_the_methods_they_suit(
    kind: RowKind, fields: dict[str, Any], methods: str
) -> None:
    with pytest.raises(DataError) as caught:
        parse(kind, **fields)
    assert caught.value.hint == f"Rows like this one suit: {methods}."


def test_an_unknown_shape_lists_the_keys_found_and_the_keys_wanted() -> None:
    with pytest.raises(DataError, match="has 'instruction', 'output'; wanted: 'prompt', 'chosen'") as caught:
        parse("pair", instruction="Hi", output="A")
    assert caught.value.where == "d.jsonl:7"
    with pytest.raises(DataError, match="has no keys; wanted: 'prompt' and 'completion', or 'messages'"):
        parse("completion")


@pytest.mark.parametrize(
    ("fields", "key", "answer"),
    [
        ({"prompt": "What is 17 - 1?", "answer": "16"}, "prompt", "16"),
        ({"prompt": "What is 17 - 1?", "answer": 16}, "prompt", "16"),
        ({"prompt": "What is 17 - 1?", "answer": 0.5}, "prompt", "0.5"),
        ({"prompt": "Hi"}, "prompt", None),
        ({"prompt": "Hi", "answer": None}, "prompt", None),
        ({"question": "Hi", "answer": "93 - 8 = 85.\n#### 85"}, "question", "85"),
        ({"problem": "Hi", "solution": "so $\\boxed{\\frac{1}{2}}$."}, "problem", "\\frac{1}{2}"),
        ({"problem": "Hi", "solution": "def f(): ...", "tests": ["assert f()"]}, "problem", None),
        ({"problem": "Hi", "solution": "so \\boxed{2}", "answer": "3"}, "problem", "3"),
        ({"prompt": "Hi", "question": "a column", "answer": "Paris"}, "prompt", "Paris"),
    ],
)
def test_a_prompt_with_or_without_an_answer(fields: dict[str, Any], key: str, answer: str | None) -> None:
    parsed = parse("prompt", **fields)
    asked = fields[key]
    extra = {name: column for name, column in fields.items() if name != key}
    assert parsed == Row("d.jsonl:7", (user(asked),), (), key, answer, extra)  # type: ignore[arg-type]
    assert parsed.answer_keys == ()


@pytest.mark.parametrize("key", ["prompt", "messages"])
def test_a_prompt_that_is_a_conversation(key: str) -> None:
    parsed = parse("prompt", answer="A", **{key: TALK})
    assert parsed == Row("d.jsonl:7", tuple(TALK), (), key, "A", {"answer": "A"})  # type: ignore[arg-type]


def test_other_kinds_of_row_have_no_answer_for_rewards() -> None:
    assert parse("completion", prompt="Hi", completion="A", answer="B").answer is None


@pytest.mark.parametrize(
    ("fields", "key", "about"),
    [
        ({"prompt": "Hi", "answer": ["A"]}, "answer", "must be text or a number and is a list"),
        ({"prompt": "Hi", "answer": True}, "answer", "is true"),
        ({"prompt": "Hi", "answer": " "}, "answer", "the answer is empty"),
        ({"prompt": "", "answer": "A"}, "prompt", "the prompt is empty"),
        ({"question": 4, "answer": "A"}, "question", "is a number"),
        ({"problem": [{"role": "robot", "content": "Hi"}]}, "problem", "'robot'"),
        ({"messages": [*TALK, assistant("A")]}, "messages", "ends with the assistant's turn"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused(fields: dict[str, Any], key: str, about: str) -> None:
    with pytest.raises(DataError) as caught:
        parse("prompt", **fields)
    assert caught.value.where == f"d.jsonl:7, key '{key}'"
    assert about in str(caught.value)


def test_prompts_and_pairs_are_told_from_each_other() -> None:
    with pytest.raises(DataError, match="suit: orpo, dpo, simpo"):
        parse("prompt", **AB)
    with pytest.raises(DataError, match="suit: grpo"):
        parse("pair", question="Hi", answer="A")
    with pytest.raises(DataError, match="wanted: 'prompt', 'question', 'problem' or 'messages'"):
        parse("prompt", text="Hi")

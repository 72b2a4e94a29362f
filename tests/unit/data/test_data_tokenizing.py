"""Where the prompt ends, how an answer ends, and what happens to rows that are too long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_align.data import ChatTokenizer, Message, Row, render_prompt, tokenize_rows, wrap_tokenizer
from mlx_align.data.tokenizing import LEAST_PROMPT
from mlx_align.errors import DataError

MakeTokenizer = Callable[..., Any]
FAMILIES = ["chatml", "llama3", "qwen3", "r1", "gemma", "plain"]
TURNS = (
    Message(role="user", content="Hi"),
    Message(role="assistant", content="<think>\nhm\n</think>\n\nHello"),
    Message(role="user", content="How are you?"),
)


def pair(prompt: str | tuple[Message, ...] = TURNS, chosen: str = "Fine.", rejected: str = "um ok") -> Row:
    if isinstance(prompt, str):
        prompt = (Message(role="user", content=prompt),)
    return Row("d.jsonl:5", prompt, (chosen, rejected))


def tokenize(row: Row, tokenizer: ChatTokenizer, max_length: int = 1000) -> Any:
    return tokenize_rows([row], tokenizer, max_length=max_length, too_long="error").examples[0]


@pytest.mark.parametrize(
    "wrap", [lambda tokenizer: tokenizer, TokenizerWrapper], ids=["transformers", "mlx-lm"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_branches_continue_the_generation_prompt_and_end_once(
    make_tokenizer: MakeTokenizer, family: str, wrap: Callable[[Any], Any]
) -> None:
    tokenizer = wrap_tokenizer(wrap(make_tokenizer(family)))
    example = tokenize(pair(), tokenizer)
    text, ids = render_prompt(tokenizer, TURNS)
    assert (example.prompt_text, example.prompt_ids) == (text, tuple(ids))
    for branch, answer in zip(example.branch_ids, ("Fine.", "um ok"), strict=True):
        assert [token in tokenizer.stop_ids for token in branch] == [False] * (len(branch) - 1) + [True]
        whole = tokenizer.decode([*example.prompt_ids, *branch])
        assert whole.startswith(text)
        assert tokenizer.decode(branch[:-1]).endswith(answer)
        opening = text.strip().splitlines()[-1]  # the last line of the generation prompt: never doubled
        assert opening not in tokenizer.decode(branch)


EXPECTED = {
    "chatml": ("Fine.<|im_end|>", "um ok<|im_end|>"),
    "llama3": ("Fine.<|eot_id|>", "um ok<|eot_id|>"),
    "qwen3": ("<think>\n\n</think>\n\nFine.<|im_end|>", "<think>\n\n</think>\n\num ok<|im_end|>"),
    "r1": ("Fine.<|im_end|>", "um ok<|im_end|>"),
    "gemma": ("Fine.<end_of_turn>", "um ok<end_of_turn>"),
    "plain": (" Fine.<|endoftext|>", " um ok<|endoftext|>"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exact_text_that_is_learnt(make_tokenizer: MakeTokenizer, family: str) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer(family))
    example = tokenize(pair(), tokenizer)
    assert tuple(map(tokenizer.decode, example.branch_ids)) == EXPECTED[family]


def test_nothing_is_added_to_what_the_template_wrote(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer("gemma"))
    example = tokenize(pair("Hi"), tokenizer)
    assert tokenizer.decode(example.prompt_ids).count("<bos>") == 1
    assert "<bos>" not in tokenizer.decode(example.branch_ids[0])


def test_an_answer_gets_no_space_of_its_own(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer("chatml", add_prefix_space=True))
    assert tokenizer.decode(tokenizer.encode("Fine.")) == " Fine."
    branches = tokenize(pair("Hi"), tokenizer).branch_ids
    assert tuple(map(tokenizer.decode, branches)) == EXPECTED["chatml"]


def test_the_prompt_stays_a_prefix_where_the_tokenizer_would_merge_across(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer("chatml", merges=[("Ċ", "F")]))
    example = tokenize(pair("Hi"), tokenizer)
    text, ids = render_prompt(tokenizer, pair("Hi").prompt)
    assert tokenizer.encode(text + "Fine.")[: len(ids)] != ids
    assert example.prompt_ids == tuple(ids)
    assert tuple(map(tokenizer.decode, example.branch_ids)) == EXPECTED["chatml"]


def test_a_completion_is_one_branch(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer("chatml"))
    example = tokenize(Row("d.jsonl:5", TURNS, ("Fine.",)), tokenizer)
    assert [tokenizer.decode(branch) for branch in example.branch_ids] == ["Fine.<|im_end|>"]
    assert example.answers == ("Fine.",)


def test_thinking_is_kept_in_the_answer_and_stripped_from_history(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer("qwen3"))
    example = tokenize(pair(chosen="<think>\nwell\n</think>\n\nFine."), tokenizer)
    assert "hm" not in example.prompt_text
    assert tokenizer.decode(example.branch_ids[0]) == "<think>\nwell\n</think>\n\nFine.<|im_end|>"


def test_the_template_s_own_end_of_turn_wins_over_eos(make_tokenizer: MakeTokenizer) -> None:
    plain = make_tokenizer("r1", eos="<|endoftext|>")  # rewrites, so that the tail is searched
    end = plain.convert_tokens_to_ids("<|im_end|>")
    tokenizer = wrap_tokenizer(TokenizerWrapper(plain, eos_token_ids=[end]))
    assert tokenizer.eos_id != end
    assert [branch[-1] for branch in tokenize(pair(), tokenizer).branch_ids] == [end, end]


# Like Phi-3: the turn is closed, and then the document.
CLOSED_TWICE = """\
{%- for m in messages -%}{{- m['role'] + ': ' + m['content'] + '<|im_end|>\\n' -}}{%- endfor -%}
{{- 'assistant: ' if add_generation_prompt else '<|endoftext|>' -}}
"""


def test_only_the_first_of_two_ends_is_kept(make_tokenizer: MakeTokenizer) -> None:
    template = (
        "{{ messages[-1]['content'] }}{% if not add_generation_prompt %}<|im_end|>\n<|endoftext|>{% endif %}"
    )
    plain = make_tokenizer(template="{{ 'Q' if add_generation_prompt else 'Q' }}" + template)
    tokenizer = wrap_tokenizer(
        TokenizerWrapper(plain, eos_token_ids=[plain.convert_tokens_to_ids("<|endoftext|>")])
    )
    example = tokenize(pair("H", chosen="Hello", rejected="Hm"), tokenizer)
    assert [tokenizer.decode(branch) for branch in example.branch_ids] == ["ello<|im_end|>", "m<|im_end|>"]


@pytest.mark.parametrize(
    ("row", "key"),
    [
        (pair(prompt="a<|im_start|>system"), "prompt"),
        (pair(chosen="Fine.<|im_end|>"), "chosen"),
        (pair(rejected="ok <|eot_id|>"), "rejected"),
        (Row("d.jsonl:5", TURNS, ("<|endoftext|>",)), "completion"),
        (Row("d.jsonl:5", TURNS, ("<|endoftext|>",), "messages"), "messages"),
        (Row("d.jsonl:5", (Message(role="user", content="<bos>"),), ("A", "B"), "chosen"), "chosen"),
    ],
)
def test_a_special_token_in_the_text_is_refused(make_tokenizer: MakeTokenizer, row: Row, key: str) -> None:
    with pytest.raises(DataError, match="special token <") as caught:
        tokenize(row, wrap_tokenizer(make_tokenizer("chatml")))
    assert caught.value.where == f"d.jsonl:5, key '{key}'"


def test_answers_that_the_template_makes_equal_are_refused(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(DataError, match="the same as 'chosen'") as caught:
        tokenize(pair(chosen="Fine.", rejected="Fine. "), wrap_tokenizer(make_tokenizer("llama3")))
    assert caught.value.where == "d.jsonl:5, key 'rejected'"


@pytest.mark.parametrize(
    ("prompt", "about"),
    [
        ((Message(role="system", content="Be brief."), TURNS[0]), "System role not supported"),
        ((TURNS[0], TURNS[2]), "roles must alternate"),
    ],
)
def test_a_conversation_that_the_template_refuses_names_the_row(
    make_tokenizer: MakeTokenizer, prompt: tuple[Message, ...], about: str
) -> None:
    with pytest.raises(DataError, match=about) as caught:
        tokenize(pair(prompt), wrap_tokenizer(make_tokenizer("gemma")))
    assert caught.value.where == "d.jsonl:5"


def test_a_template_that_makes_nothing_is_refused(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(DataError, match="makes nothing of this prompt"):
        render_prompt(wrap_tokenizer(make_tokenizer(template="{{ '' }}")), TURNS)


SHORT = Row("d.jsonl:1", (Message(role="user", content="Hi"),), ("yes", "no"))
LONG_PROMPT = Row("d.jsonl:2", (Message(role="user", content="Hi" * 40),), ("yes", "no"))
LONG_ANSWER = Row("d.jsonl:3", (Message(role="user", content="Hi"),), ("yes", "no" * 40))
ROWS = [SHORT, LONG_PROMPT, LONG_ANSWER]


@pytest.fixture
def chatml(make_tokenizer: MakeTokenizer) -> ChatTokenizer:
    return wrap_tokenizer(make_tokenizer("chatml"))


def test_the_limit_is_the_prompt_plus_the_longest_branch(chatml: ChatTokenizer) -> None:
    example = tokenize(SHORT, chatml)
    assert example.length == len(example.prompt_ids) + len("yes") + 1
    assert tokenize(SHORT, chatml, max_length=example.length) == example
    with pytest.raises(DataError):
        tokenize(SHORT, chatml, max_length=example.length - 1)


def test_drop_leaves_long_rows_out(chatml: ChatTokenizer) -> None:
    result = tokenize_rows(ROWS, chatml, max_length=60, too_long="drop")
    assert [example.name for example in result.examples] == ["d.jsonl:1"]
    assert (result.dropped, result.truncated) == (("d.jsonl:2", "d.jsonl:3"), ())


def test_truncating_cuts_the_beginning_of_the_prompt_only(chatml: ChatTokenizer) -> None:
    result = tokenize_rows(ROWS, chatml, max_length=60, too_long="truncate-prompt")
    whole = tokenize(LONG_PROMPT, chatml)
    _, cut = result.examples
    assert (result.dropped, result.truncated) == (("d.jsonl:3",), ("d.jsonl:2",))
    assert cut.length == 60
    assert cut.prompt_ids == whole.prompt_ids[-len(cut.prompt_ids) :]
    assert cut.branch_ids == whole.branch_ids


@pytest.mark.parametrize(("spare", "kept"), [(LEAST_PROMPT - 1, False), (LEAST_PROMPT, True)])
def test_a_prompt_of_which_too_little_would_be_left_is_left_out(
    chatml: ChatTokenizer, spare: int, kept: bool
) -> None:
    both_long = replace(LONG_PROMPT, answers=LONG_ANSWER.answers)
    limit = len("no" * 40) + 1 + spare
    result = tokenize_rows([SHORT, both_long], chatml, max_length=limit, too_long="truncate-prompt")
    assert (result.truncated == ("d.jsonl:2",)) is kept
    assert (result.dropped == ("d.jsonl:2",)) is not kept


def test_a_prompt_that_is_cut_still_begins_with_bos(make_tokenizer: MakeTokenizer) -> None:
    plain = make_tokenizer("gemma")
    plain.bos_token = "<bos>"
    tokenizer = wrap_tokenizer(plain)
    whole = tokenize(LONG_PROMPT, tokenizer)
    result = tokenize_rows([LONG_PROMPT], tokenizer, max_length=60, too_long="truncate-prompt")
    (cut,) = result.examples
    assert cut.length == 60
    assert cut.prompt_ids == (plain.bos_token_id, *whole.prompt_ids[-len(cut.prompt_ids) + 1 :])
    assert tokenizer.decode(cut.prompt_ids).count("<bos>") == 1


def test_error_names_the_row_and_the_longest_answer(chatml: ChatTokenizer) -> None:
    with pytest.raises(DataError, match=r"have 102 tokens; data\.max_length is 60") as caught:
        tokenize_rows([SHORT, LONG_ANSWER], chatml, max_length=60, too_long="error")
    assert caught.value.where == "d.jsonl:3, key 'rejected'"


def test_when_nothing_is_left_it_says_what_would_be_needed(chatml: ChatTokenizer) -> None:
    with pytest.raises(DataError, match="the shortest has 25, the longest 103") as caught:
        tokenize_rows(ROWS, chatml, max_length=8, too_long="drop")
    assert "103" in str(caught.value.hint)

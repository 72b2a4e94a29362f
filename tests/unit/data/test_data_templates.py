"""The template is a stranger's code: its refusals, its limits, and the tokenizers it comes with."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_align.data import Message, templates, wrap_tokenizer
from mlx_align.data.templates import dated
from mlx_align.errors import DataError, UsageError

MakeTokenizer = Callable[..., Any]
HELLO = [Message(role="user", content="Hello")]


def test_both_kinds_of_tokenizer_give_the_same(make_tokenizer: MakeTokenizer) -> None:
    plain = make_tokenizer("qwen3")
    ours, mlx = wrap_tokenizer(plain), wrap_tokenizer(TokenizerWrapper(plain))
    assert ours.eos_id == mlx.eos_id
    assert ours.stop_ids == mlx.stop_ids == {ours.eos_id}
    assert ours.special_texts == mlx.special_texts
    text = ours.render(HELLO, add_generation_prompt=True, name=None)
    assert text == mlx.render(HELLO, add_generation_prompt=True, name=None)
    assert ours.encode(text) == mlx.encode(text)
    assert ours.decode(ours.encode(text)) == mlx.decode(mlx.encode(text)) == text


def test_every_stop_token_of_mlx_lm_is_known(make_tokenizer: MakeTokenizer) -> None:
    plain = make_tokenizer("llama3")
    other = plain.convert_tokens_to_ids("<|endoftext|>")
    assert wrap_tokenizer(TokenizerWrapper(plain, eos_token_ids=[other])).stop_ids == {
        other,
        plain.eos_token_id,
    }


def test_a_stop_token_declared_later_is_special_too(make_tokenizer: MakeTokenizer) -> None:
    plain = make_tokenizer("chatml")
    tokenizer = wrap_tokenizer(plain)
    assert tokenizer.special_text_in("</think>") is None
    ends = tokenizer.stop_ids | {plain.convert_tokens_to_ids("</think>")}
    assert replace(tokenizer, stop_ids=ends).special_text_in("</think>") == "</think>"


def test_special_tokens_are_found_in_text_but_ordinary_added_ones_are_not(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer("chatml"))
    assert tokenizer.special_text_in("a <|eot_id|> b") == "<|eot_id|>"
    assert tokenizer.special_text_in("<think> and <b> and <|im_en|>") is None


@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now('%d %b %Y') }}",
        '{% if strftime_now is defined %}{{- strftime_now( "%d %b %Y" ) -}}{% endif %}',
        "{% macro today() %}{{ strftime_now('%d %b ') + strftime_now('%Y') }}{% endmacro %}{{ today() }}",
    ],
)
def test_a_template_that_writes_the_date_writes_that_of_a_moment(
    make_tokenizer: MakeTokenizer, template: str
) -> None:
    moment = datetime(2024, 7, 26, 23, 50)
    tokenizers = [
        wrap_tokenizer(make_tokenizer(template=each)) for each in (dated(template, moment), template)
    ]
    then, today = (each.render(HELLO, add_generation_prompt=True, name=None) for each in tokenizers)
    assert then == "26 Jul 2024"
    assert today != then


def test_only_calls_for_a_date_that_is_written_out_are_replaced() -> None:
    for template in ("{{ strftime_now(how) }}", "{{ messages }} on %d %b", "{{ my_strftime_now('%d') }}"):
        assert dated(template, datetime(2024, 7, 26)) == template


def test_a_base_model_without_a_template_is_refused(make_tokenizer: MakeTokenizer) -> None:
    bare = make_tokenizer(template=None)
    for tokenizer in (bare, TokenizerWrapper(bare)):
        with pytest.raises(UsageError, match="no chat template") as caught:
            wrap_tokenizer(tokenizer)
        assert "instruct" in str(caught.value.hint)


def test_a_tokenizer_without_an_end_is_refused(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(UsageError, match="no end-of-sequence token"):
        wrap_tokenizer(make_tokenizer("chatml", eos=None))


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('only poems') }}", "{{ 1 / 0 }}", "{{ messages.nope.nope }}", "{% if %}"]
)
def test_whatever_a_template_raises_names_the_row(make_tokenizer: MakeTokenizer, template: str) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer(template=template))
    with pytest.raises(DataError, match="refuses this conversation") as caught:
        tokenizer.render(HELLO, add_generation_prompt=True, name="d.jsonl:3")
    assert caught.value.where == "d.jsonl:3"


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_that_does_not_end_is_stopped(
    make_tokenizer: MakeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "MAX_SECONDS", 0.2)
    tokenizer = wrap_tokenizer(make_tokenizer(template=ENDLESS))
    with pytest.raises(DataError, match=r"not done after 0\.2 seconds"):
        tokenizer.render(HELLO, add_generation_prompt=True, name="d.jsonl:3")


def test_a_template_that_floods_is_refused(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer(template="{{ 'x' * 5000000 }}"))
    with pytest.raises(DataError, match="5,000,000 characters; the limit is 4,000,000"):
        tokenizer.render(HELLO, add_generation_prompt=True, name="d.jsonl:3")


def test_the_time_limit_gives_back_an_alarm_that_was_set_before() -> None:
    def theirs(signum: int, frame: object) -> None:
        raise AssertionError("rang too early")

    before = signal.signal(signal.SIGALRM, theirs)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        with templates.time_limit(5):
            assert signal.getitimer(signal.ITIMER_REAL)[0] <= 5
        assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
        assert signal.getsignal(signal.SIGALRM) is theirs
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, outer)


def test_without_an_earlier_alarm_none_is_left() -> None:
    with templates.time_limit(5):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0) or signal.getitimer(signal.ITIMER_REAL)[0] > 5


def test_rendering_works_in_another_thread(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer("chatml"))
    texts: list[str] = []
    thread = threading.Thread(
        target=lambda: texts.append(tokenizer.render(HELLO, add_generation_prompt=True, name=None))
    )
    thread.start()
    thread.join()
    assert texts == ["<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"]

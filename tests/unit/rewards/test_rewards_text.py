"""The rewards that look at the text alone: each a table of completions and values."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlx_align.errors import ConfigError, UsageError
from mlx_align.rewards import Scorer, limits, make_specs
from tests.rewarded import sampled, value


@pytest.mark.parametrize(
    ("completion", "answer", "options", "expected"),
    [
        ("Paris", "Paris", {}, 1),
        ("  paris.\n", "Paris", {}, 1),
        ("**Paris**", "Paris", {}, 1),
        ("The answer is Paris.", "paris", {}, 1),
        (r"\boxed{New  York}", "New York", {}, 1),
        ("ﬁne", "fine", {}, 1),
        ("Paris", "London", {}, 0),
        ("It is Paris", "Paris", {}, 0),
        ("paris", "Paris", {"case": True}, 0),
        ("Paris.", "Paris", {"punctuation": True}, 0),
        ("Paris", "Paris", {"extract": "tag"}, 0),
        ("<answer>Paris</answer>", "Paris", {"extract": "tag"}, 1),
    ],
)
def test_exact(completion: str, answer: str, options: dict[str, Any], expected: float) -> None:
    assert value("exact", completion, answer, **options) == expected


@pytest.mark.parametrize(
    ("completion", "options", "expected"),
    [
        ("So it is 42.", {"pattern": r"\d+"}, 1),
        ("So it is 42.", {"pattern": r"\d+", "where": "whole"}, 0),
        (" 42\n", {"pattern": r"\d+", "where": "whole"}, 1),
        ("the answer: a.b", {"pattern": "answer: {answer}$"}, 1),
        ("the answer: axb", {"pattern": "answer: {answer}$"}, 0),
    ],
)
def test_regex(completion: str, options: dict[str, Any], expected: float) -> None:
    assert value("regex", completion, "a.b", **options) == expected


def test_a_pattern_that_backtracks_without_end_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.05)
    assert math.isnan(value("regex", "a" * 40 + "!", pattern="(a+)+$"))


GOOD = "<think>hm</think>\n<answer>42</answer>"


@pytest.mark.parametrize(
    ("completion", "whole", "partial"),
    [
        (GOOD, 1, 1),
        (f"\n{GOOD} ", 1, 1),
        ("<answer>42</answer><think>hm</think>", 0, 2 / 5),
        ("<think>hm</think>42", 0, 2 / 5),
        (f"Well: {GOOD}", 0, 4 / 5),
        (f"{GOOD} Bye", 0, 4 / 5),
        ("<think>hm</think> so <answer>42</answer>", 0, 4 / 5),
        ("<think> </think><answer>42</answer>", 0, 4 / 5),
        (f"{GOOD}{GOOD}", 0, 0),
        ("<think>hm <answer>42</think></answer>", 0, 3 / 5),
        ("", 0, 0),
    ],
)
def test_format(completion: str, whole: float, partial: float) -> None:
    assert value("format", completion) == whole
    assert value("format", completion, partial=True) == pytest.approx(partial)


def test_format_where_the_template_has_opened_the_first_tag() -> None:
    with Scorer(make_specs([{"name": "format"}])) as scorer:
        rest = "hm</think><answer>42</answer>"
        opened = sampled(rest, prompt="<|assistant|>\n<think>\n")
        assert scorer.score([opened, sampled(rest)]).values.tolist() == [[1], [0]]


SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0}},
    "required": ["age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("completion", "options", "expected"),
    [
        ('{"a": [1, null]}', {}, 1),
        ('```json\n{"a": 1}\n```', {}, 1),
        ('```json\n{"a": 1}\n```', {"fence": False}, 0),
        ('Here: {"a": 1}', {}, 0),
        ("{'a': 1}", {}, 0),
        ("NaN", {}, 0),
        ("[" * 100_000, {}, 0),
        ("7" * 5000, {}, 0),
        ("", {}, 0),
        ('{"age": 3}', {"schema": SCHEMA}, 1),
        ('{"age": -3}', {"schema": SCHEMA}, 0),
        ('{"age": -3}', {"schema": SCHEMA, "valid": 0.25}, 0.25),
        ('{"age": 3, "b": 1}', {"schema": SCHEMA}, 0),
        ("nonsense", {"schema": SCHEMA, "valid": 0.25}, 0),
    ],
)
def test_json(completion: str, options: dict[str, Any], expected: float) -> None:
    assert value("json", completion, **options) == expected


def test_a_schema_that_is_none_is_refused_and_one_elsewhere_is_not_fetched() -> None:
    with pytest.raises(UsageError, match="is not a JSON Schema"):
        value("json", "1", schema={"type": "whole"})
    assert math.isnan(value("json", "1", schema={"$ref": "http://localhost:9/schema.json"}))


@pytest.mark.parametrize(
    ("tokens", "sides", "expected"),
    [
        (100, "both", 1),
        (90, "both", 0.75),
        (110, "both", 0.75),
        (140, "both", 0),
        (500, "both", 0),
        (10, "longer", 1),
        (120, "longer", 0.5),
        (300, "shorter", 1),
        (80, "shorter", 0.5),
    ],
)
def test_length_is_a_triangle_or_half_of_one(tokens: int, sides: str, expected: float) -> None:
    with Scorer(make_specs([{"name": "length", "target": 100, "width": 40, "sides": sides}])) as scorer:
        assert scorer.score([sampled("x", tokens=tokens)]).values[0, 0] == pytest.approx(expected)


def test_length_counts_words_or_characters_where_asked_to() -> None:
    assert value("length", "one two three", target=3, width=1, unit="words") == 1
    assert value("length", "one two three", target=13, width=1, unit="characters") == 1


@pytest.mark.parametrize(
    ("completion", "options", "expected"),
    [
        ("Use a hash map, please", {"include": ["hash map", "please"]}, 1),
        ("Use a hash\nmap", {"include": ["hash map", "please"]}, 0.5),
        ("rehash maps", {"include": ["hash map"]}, 0),
        ("HASH MAP", {"include": ["hash map"]}, 1),
        ("HASH MAP", {"include": ["hash map"], "case": True}, 0),
        ("um, a hash map", {"include": ["hash map"], "exclude": ["um"]}, 0),
        ("a number", {"exclude": ["um"]}, 1),
        ("in C++ code", {"include": ["C++"]}, 1),
    ],
)
def test_keywords(completion: str, options: dict[str, Any], expected: float) -> None:
    assert value("keywords", completion, **options) == expected


@pytest.mark.parametrize(
    ("completion", "answers"),
    [
        ("Paris is the capital of France.", 1),
        ("I'm sorry, but I can't help with that.", 0),
        ("I’m sorry, I cannot assist with this request.", 0),
        ("As an AI language model, I am unable to answer that.", 0),
        ("Unfortunately, I won't be able to provide that.", 0),
        ("I must decline.", 0),
        ("<think>Is it safe?</think>I cannot help you with that.", 0),
        ("I cannot believe how good this is! The trick: add salt.", 1),
        ("I'm sorry to hear that. Here is what to do: rest.", 1),
        ("She said: I'm sorry, but I can't help with that.", 1),
        ("", 0),
    ],
)
def test_refusal(completion: str, answers: float) -> None:
    assert value("refusal", completion) == answers
    assert value("refusal", completion, wanted=True) == (1 - answers if completion else 0)


TEXTS = {
    "ar": "العاصمة هي باريس وهي مدينة كبيرة",
    "de": "Die Hauptstadt von Frankreich ist Paris, und sie ist nicht klein.",
    "el": "Η πρωτεύουσα της Γαλλίας είναι το Παρίσι",
    "en": "The capital of France is Paris, and it is not small.",
    "es": "La capital de Francia es París y no es pequeña, pero es muy bonita.",
    "fr": "La capitale de la France est Paris, et elle n'est pas petite.",
    "he": "בירת צרפת היא פריז",
    "hi": "फ्रांस की राजधानी पेरिस है",
    "it": "La capitale della Francia è Parigi, che non è una città piccola.",
    "ja": "フランスの首都はパリです。",
    "ko": "프랑스의 수도는 파리입니다.",
    "nl": "De hoofdstad van Frankrijk is Parijs en het is niet klein.",
    "pl": "Stolicą Francji jest Paryż i nie jest to małe miasto.",
    "pt": "A capital da França é Paris e não é pequena, mas é uma cidade bonita.",
    "ru": "Столица Франции — это Париж, и он не маленький.",
    "sv": "Huvudstaden i Frankrike är Paris och det är inte en liten stad.",
    "th": "เมืองหลวงของฝรั่งเศสคือปารีส",
    "tr": "Fransa'nın başkenti Paris'tir ve bu çok büyük bir şehir.",
    "uk": "Столиця Франції — це Париж, і він не є малим.",
    "zh": "法国的首都是巴黎。",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_is_in_its_own_language_and_in_no_other(language: str) -> None:
    with Scorer(make_specs([{"name": "language", "language": one, "label": one} for one in TEXTS])) as scorer:
        values = scorer.score([sampled(TEXTS[language])]).values[0]
    assert {one for one, found in zip(TEXTS, values, strict=True) if found} == {language}


def test_a_short_text_is_judged_by_its_letters_and_none_by_nothing() -> None:
    assert value("language", "Paris.", language="en") == 1
    assert value("language", "Париж.", language="en") == 0
    assert value("language", "42", language="en") == 0


def test_letters_of_one_script_with_two_names_count_together() -> None:
    assert value("language", "サーバーエラーが発生しました HTTPERROR", language="ja") == 1


@pytest.mark.parametrize(
    ("name", "options", "about"),
    [
        ("regex", {"pattern": "("}, "not a regular expression"),
        ("regex", {}, "must be set"),
        ("format", {"tags": ["<think>"]}, "write think, not <think>"),
        ("format", {"tags": ["a", "a"]}, "twice"),
        ("json", {"valid": 0.5}, "no meaning without a schema"),
        ("length", {"target": 5, "width": 0}, "greater than or equal to 1"),
        ("keywords", {}, "set include, exclude or both"),
        ("keywords", {"include": [" "]}, "a keyword is empty"),
        ("language", {"language": "xx"}, "is not one of"),
        ("numeric", {"tolerance": -1}, "greater than or equal to 0"),
        ("numeric", {"tolerence": 1}, "no such setting"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], about: str) -> None:
    with pytest.raises(ConfigError, match=about) as caught:
        value(name, "x", **options)
    assert (caught.value.where or "").startswith("rewards[0]")

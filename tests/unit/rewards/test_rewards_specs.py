"""From the command line and the configuration to rewards, and from their values to totals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_array_equal

from mlx_align.data import Message, Row
from mlx_align.errors import ConfigError, DataError, UsageError
from mlx_align.rewards import REWARDS, Failure, Scorer, check_rows, get, make_specs, parse_reward
from tests.rewarded import sampled


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text("def half(completion, **rest):\n    return 0.5\n", encoding="utf-8")
    return path


def test_every_reward_has_its_name_and_title() -> None:
    for name, reward in REWARDS.items():
        assert get(name) is reward
        assert reward.name == name
        assert reward.title


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("numeric", {"name": "numeric"}),
        ("numeric=2.0", {"name": "numeric", "weight": 2.0}),
        ("length=-1e-1", {"name": "length", "weight": -0.1}),
        ("/a/mine.py:half", {"name": "/a/mine.py:half"}),
        ("/a/mine.py:half=0.5", {"name": "/a/mine.py:half", "weight": 0.5}),
    ],
)
def test_a_reward_on_the_command_line(text: str, table: dict[str, Any]) -> None:
    assert parse_reward(text) == table


def test_a_file_is_named_by_its_whole_path(tmp_path: Path) -> None:
    assert parse_reward("mine.py:half") == {"name": f"{tmp_path / 'mine.py'}:half"}


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("numerc", "unknown reward 'numerc'\n.*numeric, exact"),
        ("mine.py", "unknown reward"),
        ("mine.py:", "unknown reward"),
        ("", "unknown reward ''"),
        ("numeric=much", "'much' is not a number"),
        ("numeric=", "'' is not a number"),
    ],
)
def test_a_reward_that_is_none_is_refused(text: str, about: str) -> None:
    with pytest.raises(UsageError, match=about):
        parse_reward(text)


@pytest.mark.parametrize(
    ("tables", "where", "about"),
    [
        ([{"name": "numeric"}, {"name": "numeric"}], "rewards", "another 'label'"),
        ([{"name": "numeric", "weight": math.inf}], "rewards[0].weight", "must be a number"),
        ([{"name": "exact"}, {"name": "numeric", "weight": "2"}], "rewards[1].weight", "must be a number"),
        ([{"name": "numeric", "colour": 1}], "rewards[0].colour", "the options tolerance, extract"),
        ([{"name": "json", "json_schema": {}}], "rewards[0].json_schema", "the options schema, valid"),
        ([{"name": "python", "function": "mine:half"}], "rewards[0].function", "is not file.py:function"),
        ([{"name": "python"}], "rewards[0].function", "must be set"),
    ],
)
def test_tables_that_make_no_sense_are_refused(tables: list[dict[str, Any]], where: str, about: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_specs(tables)
    assert caught.value.where == where
    assert about in str(caught.value)


def test_two_rewards_of_a_kind_are_told_apart_by_their_labels(own_file: Path) -> None:
    tables: list[dict[str, Any]] = [
        {"name": "keywords", "include": ["a"], "label": "a"},
        {"name": "keywords", "include": ["b"]},
        {"name": f"{own_file}:half", "timeout": 30},
    ]
    with Scorer(make_specs(tables)) as scorer:
        assert scorer.names == ("a", "keywords", "mine.py:half")
        assert scorer.score([sampled("a")]).values.tolist() == [[1, 0, 0.5]]


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("absent.py:half", "there is no file"),
        ("mine.py:whole", "AttributeError: there is no function 'whole'"),
    ],
)
def test_a_function_that_is_not_there_is_refused_at_once(own_file: Path, name: str, about: str) -> None:
    with pytest.raises(UsageError, match=about):
        Scorer(make_specs([{"name": str(own_file.parent / name)}]))


def test_a_file_that_does_not_load_is_refused_with_its_line(own_file: Path) -> None:
    for text, about in (
        ("import os\nimport no_such_module\n", r"ModuleNotFoundError: .* \(mine.py, line 2\)"),
        ("def half(:\n", r"SyntaxError: .* \(mine.py, line 1\)"),
    ):
        own_file.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=about):
            Scorer(make_specs([{"name": f"{own_file}:half"}]))


def test_totals_are_weighted_and_a_weight_of_zero_is_only_shown() -> None:
    tables = [
        {"name": "numeric", "weight": 2},
        {"name": "exact", "weight": -0.5},
        {"name": "length", "weight": 0},
    ]
    tables[2] |= {"target": 1, "width": 1}
    with Scorer(make_specs(tables)) as scorer:
        scored = scorer.score([sampled("5", "5"), sampled("it is 5", "5"), sampled("4 or so", "5")])
    assert scored.values.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert scored.total.tolist() == [1.5, 2.0, 0.0]
    assert scored.failures == ()


def test_a_failure_is_no_zero_and_hides_no_other_reward() -> None:
    tables = [{"name": "numeric"}, {"name": "format"}, {"name": "exact", "weight": 0}]
    with Scorer(make_specs(tables)) as scorer:
        scored = scorer.score([sampled("5", "five"), sampled("5", "5"), sampled("5", None)])
    assert_array_equal(scored.values, [[math.nan, 0, 0], [1, 0, 1], [math.nan, 0, math.nan]])
    assert scored.total == pytest.approx([math.nan, 1, math.nan], nan_ok=True)
    assert scored.failures == (
        Failure("numeric", 0, "the row's answer 'five' is not one number"),
        Failure("numeric", 2, "the row has no answer"),
        Failure("exact", 2, "the row has no answer"),
    )


def test_no_completions_have_no_rewards() -> None:
    with Scorer(make_specs([{"name": "numeric"}, {"name": "exact"}])) as scorer:
        scored = scorer.score([])
    assert scored.values.shape == (0, 2)
    assert scored.total.shape == (0,)


def row(line: int, answer: str | None, **extra: Any) -> Row:
    return Row(f"d.jsonl:{line}", (Message(role="user", content="q"),), (), "prompt", answer, extra)


@pytest.mark.parametrize(
    ("table", "rows", "where", "about"),
    [
        ({"name": "numeric"}, [row(1, "5"), row(2, None), row(3, None)], "d.jsonl:2", "no answer (2 of 3"),
        ({"name": "numeric"}, [row(1, "a lot")], "d.jsonl:1", "'a lot', which is not one number"),
        ({"name": "exact"}, [row(1, None)], "d.jsonl:1", "has no answer"),
        ({"name": "sympy"}, [row(1, None)], "d.jsonl:1", "has no answer"),
        ({"name": "regex", "pattern": "{answer}"}, [row(1, None)], "d.jsonl:1", "has no answer"),
    ],
)
def test_rows_that_a_reward_cannot_score_are_refused(
    table: dict[str, Any], rows: list[Row], where: str, about: str
) -> None:
    with pytest.raises(DataError) as caught:
        check_rows(make_specs([table]), rows)
    assert caught.value.where == where
    assert about in caught.value.message


def test_rows_without_answers_suit_rewards_that_want_none() -> None:
    tables = [{"name": "format"}, {"name": "regex", "pattern": "a"}, {"name": "refusal"}]
    check_rows(make_specs(tables), [row(1, None)])


def test_equal_completions_have_equal_totals_to_the_last_digit(tmp_path: Path) -> None:
    """Whatever stands beside them: a difference in rounding would be a signal, and would be learnt from."""
    path = tmp_path / "mine.py"
    path.write_text("def by_length(completion, **rest):\n    return len(completion) / 7\n", encoding="utf-8")
    tables = [{"name": f"{path}:by_length", "weight": 0.1 * n, "label": str(n)} for n in range(1, 6)]
    with Scorer(make_specs(tables)) as scorer:
        for count in range(2, 25):
            assert len(set(scorer.score([sampled("abc")] * count).total.tolist())) == 1


def test_a_value_beside_which_others_vanish_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def huge(completion, **rest):\n    return 10.0 ** len(completion)\n", encoding="utf-8")
    with Scorer(make_specs([{"name": f"{path}:huge", "weight": 2.0}])) as scorer:
        scored = scorer.score([sampled("abc"), sampled("a" * 300), sampled("abcdef")])
    assert scored.total[0] == 2000.0
    assert [failure.index for failure in scored.failures] == [1, 2]
    assert "too large" in scored.failures[1].message


@pytest.mark.parametrize(
    ("extra", "remedy"),
    [({"chosen": "a", "rejected": "b"}, "orpo, dpo or simpo"), ({}, "Give the rows an 'answer'")],
)
def test_where_no_row_has_an_answer_the_remedy_is_not_to_remove_them(
    extra: dict[str, Any], remedy: str
) -> None:
    rows = [Row(f"rows.jsonl:{n}", (Message(role="user", content="?"),), (), extra=extra) for n in (1, 2)]
    with pytest.raises(DataError, match="2 of 2") as error:
        check_rows(make_specs([{"name": "numeric"}]), rows)
    assert error.value.hint is not None
    assert remedy in error.value.hint


@pytest.mark.parametrize(
    ("name", "answers"), [("sympy", ["(1, 2]", "[0, 3)"]), ("sympy", ["(1, 2]", None]), ("code", [None, "2"])]
)
def test_where_an_answer_is_not_what_is_missing_the_remedy_does_not_ask_for_one(
    name: str, answers: list[str | None]
) -> None:
    rows = [row(line, answer) for line, answer in enumerate(answers)]
    with pytest.raises(DataError, match="2 of 2") as error:
        check_rows(make_specs([{"name": name}]), rows)
    assert error.value.hint == "Choose another reward with --reward, or give the rows what this one needs."

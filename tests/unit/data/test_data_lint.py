"""Warnings about data that can be used, each with its rows."""

from __future__ import annotations

from dataclasses import replace

from mlx_align.data import Example, Message, Row, Tokenized, lint


def pair(line: int, prompt: str, chosen: str, rejected: str) -> Row:
    return Row(f"d.jsonl:{line}", (Message(role="user", content=prompt),), (chosen, rejected))


def tokenized(rows: list[Row], dropped: tuple[str, ...] = ()) -> Tokenized:
    """One token a character."""
    examples = (
        Example(row.name, (1,), tuple(tuple(range(len(a))) for a in row.answers), "", "", row.answers)
        for row in rows
    )
    return Tokenized(tuple(e for e in examples if e.name not in dropped), dropped, ())


CLEAN = [pair(i, f"q{i}", "good", "bad!!!") for i in range(1, 21)]


def test_good_data_has_no_findings() -> None:
    assert lint(CLEAN, tokenized(CLEAN)) == ()


def test_completions_have_no_preferences_to_contradict() -> None:
    rows = [Row(f"d.jsonl:{i}", (Message(role="user", content="q"),), (f"{i}",)) for i in range(3)]
    assert lint(rows, tokenized(rows)) == ()


def test_repeated_rows() -> None:
    rows = [*CLEAN, pair(21, "q3", "good", "bad!!!")]
    (finding,) = lint(rows, tokenized(rows))
    assert (finding.code, finding.rows) == ("duplicate-rows", ("d.jsonl:21",))
    assert "1 of 21 rows" in finding.message


def test_contradictory_pairs() -> None:
    rows = [*CLEAN, pair(21, "q3", "bad!!!", "good")]
    (finding,) = lint(rows, tokenized(rows))
    assert (finding.code, finding.rows) == ("contradictory-pairs", ("d.jsonl:3", "d.jsonl:21"))


def asked(line: int, prompt: str, answer: str | None) -> Row:
    return Row(f"d.jsonl:{line}", (Message(role="user", content=prompt),), (), "question", answer)


def test_prompts_with_two_right_answers() -> None:
    told = [("a", "1"), ("b", "1"), ("a", "2"), ("c", None), ("c", "3")]
    rows = [asked(line, *row) for line, row in enumerate(told, start=1)]
    (finding,) = lint(rows, tokenized(rows))
    assert (finding.code, finding.rows) == ("contradictory-answers", ("d.jsonl:1", "d.jsonl:3"))
    assert "2 of 5 rows" in finding.message


def test_repeated_prompts_count_double_only_with_the_same_answer() -> None:
    rows = [asked(1, "a", "1"), asked(2, "a", "1"), asked(3, "b", None)]
    (finding,) = lint(rows, tokenized(rows))
    assert (finding.code, finding.rows) == ("duplicate-rows", ("d.jsonl:2",))


def conversation(line: int, *roles: str, key: str = "messages") -> Row:
    return Row(f"d.jsonl:{line}", tuple(Message(role=role, content=f"{line}") for role in roles), ("a",), key)


def test_earlier_turns_of_the_assistant_that_are_not_learnt() -> None:
    short, long = ("system", "user"), ("user", "assistant", "user")
    rows = [conversation(1, *short), conversation(2, *long), conversation(3, *long, key="prompt")]
    (finding,) = lint(rows, tokenized(rows))
    assert (finding.code, finding.rows) == ("earlier-turns", ("d.jsonl:2",))
    assert "1 of 3 rows" in finding.message
    whole = [replace(conversation(1, *long, key="chosen"), answers=("good", "bad!"))]
    assert lint(whole, tokenized(whole)) == (), "a pair's earlier turns are its prompt by its form"


def test_length_bias_in_both_directions_states_the_medians() -> None:
    for chosen, rejected in (("x" * 21, "y" * 10), ("x" * 10, "y" * 21)):
        rows = [pair(i, f"q{i}", chosen, rejected) for i in range(5)]
        (finding,) = lint(rows, tokenized(rows))
        assert finding.code == "length-bias"
        assert f"chosen answer has {len(chosen)} tokens" in finding.message
        assert f"rejected one {len(rejected)}" in finding.message
    rows = [pair(i, f"q{i}", "x" * 20, "y" * 10) for i in range(5)]
    assert lint(rows, tokenized(rows)) == ()


def test_many_dropped_rows() -> None:
    two, three = (tuple(row.name for row in CLEAN[:n]) for n in (2, 3))
    assert lint(CLEAN, tokenized(CLEAN, two)) == ()
    (finding,) = lint(CLEAN, tokenized(CLEAN, three))
    assert (finding.code, finding.rows) == ("many-dropped", three)
    assert "3 of 20 rows" in finding.message

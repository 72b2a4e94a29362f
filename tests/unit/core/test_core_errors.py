"""Every failure says what happened, where, and what to do next; and has its documented exit code."""

from __future__ import annotations

from collections.abc import Iterator

from mlx_align.errors import EXIT_CODES, AlignError, ConfigError, DataError


def tree(root: type[AlignError]) -> Iterator[type[AlignError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


OURS = [kind for kind in tree(AlignError) if kind.__module__ == "mlx_align.errors"]


def test_the_exit_codes_are_exactly_the_documented_ones() -> None:
    assert {kind.exit_code for kind in OURS} | {0} == set(EXIT_CODES)
    documented = {"ConfigError": 2, "UsageError": 2, "DataError": 3, "WontFitError": 4, "DivergedError": 5}
    documented |= {"AlignError": 1, "SandboxMissingError": 1, "DeviceAbortError": 6}
    documented |= {"InterruptedRunError": 130}
    assert {kind.__name__: kind.exit_code for kind in OURS} == documented


def test_every_class_has_a_name_of_its_own_for_logs() -> None:
    assert len({kind.kind for kind in OURS}) == len(OURS)


def test_as_text() -> None:
    assert str(AlignError("it broke")) == "it broke"
    assert str(AlignError("it broke", where="a.jsonl:3")) == "a.jsonl:3: it broke"
    assert str(ConfigError("bad", where="optim.lr", hint="Mend it.")) == "optim.lr: bad\n  Mend it."


def test_a_data_error_says_file_line_and_key() -> None:
    assert DataError.at("d.jsonl", 7, "chosen", "is empty").where == "d.jsonl:7, key 'chosen'"
    assert DataError.at("d.jsonl", 7, None, "is not JSON").where == "d.jsonl:7"
    assert DataError.at("d.jsonl", None, None, "is empty", "Add rows.").hint == "Add rows."

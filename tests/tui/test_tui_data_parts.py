"""Data: what its parts make of rows, and real previews of them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from mlx_align import embedded
from mlx_align.config import MethodConfig, ModelConfig
from mlx_align.errors import AlignError, DataError, UsageError
from mlx_align_tui.live.programs import Preview
from mlx_align_tui.screens.data_parts.survey import SHOWN_ROWS, Survey
from mlx_align_tui.screens.data_parts.tokens import tokens_text
from mlx_align_tui.widgets.histogram import bars, counts


def test_scored_tokens_are_coloured_and_bounds_shown_or_not() -> None:
    colours = {"success": "#00ff00", "quiet": "#808080", "panel": "#222222", "surface": "#111111"}
    pieces = [("Yes", 1), (" 🙂\n", 3), ("<|im_end|>", 1)]
    learnt = tokens_text(pieces, colours, front="success", bounds=True)
    assert learnt.plain == "Yes 🙂↵\n<|im_end|>"
    styles = [str(span.style) for span in learnt.spans if span.style]
    assert styles == ["#00ff00 on #111111", "#00ff00 on #222222", "#00ff00 on #111111"]
    read = tokens_text(pieces, colours, front="quiet", bounds=False)
    assert {str(span.style) for span in read.spans if span.style} == {"#808080"}


@pytest.mark.parametrize(("high", "columns"), [(100, 40), (40, 100), (64, 64), (1000, 7)])
def test_a_histogram_loses_no_row(high: int, columns: int) -> None:
    values = np.sort(np.random.default_rng(high).integers(0, high + 1, 500))
    found = counts(values.tolist(), high, columns)
    assert len(found) == columns
    if high >= columns:
        expected, _ = np.histogram(values, bins=columns, range=(0, high))
        assert sum(found) == 500
        assert np.abs(np.cumsum(found) - np.cumsum(expected)).max() <= 500 / columns + 10
    else:
        assert set(found) == set(np.bincount(np.minimum(values, high - 1), minlength=high).tolist())


def test_bars_show_every_count_that_is_not_0() -> None:
    assert bars([0, 1, 400, 800], 2) == ["   █", " ▁██"]
    assert bars([0, 0], 1) == ["  "]


def test_a_long_list_of_rows_is_cut_and_says_so() -> None:
    names = [f"rows.jsonl:{number}" for number in range(200)]
    survey = Survey(names, [1] * 200, [[1]] * 200, False, [{"message": "all", "rows": names}], [])
    entries = survey.entries()
    assert entries[0] == ("finding", "all", None)
    assert entries[-1] == ("more", "and 150 more", None)
    assert len(entries) == SHOWN_ROWS + 2
    assert survey.titles == ("answer",)


def test_a_real_preview_reads_rows_as_the_model_does() -> None:
    preview = Preview(embedded.sample_for("pair"), ModelConfig(), MethodConfig())
    messages = preview.messages()
    survey = next(Survey.of(message) for message in messages if message["type"] == "survey")
    assert len(survey.names) == 1360, "training and held-out rows"
    assert survey.faults == []
    preview.ask(1200)
    answer = next(messages)
    assert sum(count for _, count in answer["prompt"]) == survey.prompts[1200]
    assert [sum(count for _, count in pieces) for pieces in answer["answers"]] == survey.answers[1200]
    first = json.loads((embedded.sample_for("pair") / "valid.jsonl").read_text().splitlines()[0])
    assert first["prompt"] in "".join(piece for piece, _ in answer["prompt"])
    assert "".join(piece for piece, _ in answer["answers"][0]).startswith(first["chosen"])
    preview.close()
    assert list(messages) == []


def test_a_real_preview_is_of_the_run_that_is_put_together(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}\n')
    whole = MethodConfig.model_validate({"name": "orpo", "nll": "prompt+response"})
    preview = Preview(rows, ModelConfig(), whole)
    survey = next(message for message in preview.messages() if message["type"] == "survey")
    assert survey["scores_prompt"]
    preview.close()
    preview = Preview(rows, ModelConfig(revision="v2"), whole)
    with pytest.raises(UsageError, match="revision"):
        next(message for message in preview.messages() if message["type"] == "survey")
    preview.close()


def test_a_real_preview_of_nothing_is_an_error(tmp_path: Path) -> None:
    preview = Preview(tmp_path / "none.jsonl", ModelConfig(), MethodConfig())
    with pytest.raises(DataError, match="no such file"):
        list(preview.messages())


@pytest.mark.parametrize("ended", [signal.SIGKILL, signal.SIGTERM])
def test_a_preview_that_a_signal_ends_says_so(ended: signal.Signals) -> None:
    preview = Preview(embedded.sample_for("pair"), ModelConfig(), MethodConfig())
    messages = preview.messages()
    next(messages)
    preview._process.send_signal(ended)
    with pytest.raises(AlignError, match=f"killed by signal {int(ended)}"):
        list(messages)
    closed = Preview(embedded.sample_for("pair"), ModelConfig(), MethodConfig())
    closed.close()
    assert list(closed.messages()) == [], "who closes it need not be told"
    assert closed._process is None, "and it was not even started"

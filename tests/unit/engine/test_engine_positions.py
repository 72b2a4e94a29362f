"""A model that turns short and long texts by other factors: the longest row of a run decides for all."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_align import embedded
from mlx_align.backends.mlx import longrope
from mlx_align.backends.mlx.backend import MlxBackend
from mlx_align.backends.positions import Positions
from mlx_align.config import RunConfig
from mlx_align.data import Example, load_dataset, tokenize_rows
from mlx_align.engine import session
from mlx_align.engine.positions import longest_of, tell
from mlx_align.engine.reporter import Reporter
from mlx_align.engine.tokenizer import load_tokenizer
from mlx_align.errors import UsageError
from mlx_align.events import Alert, Event, RunFailed
from mlx_align.runs.atomic import write_json
from tests import support


def stretched(folder: Path, border: Any) -> str:
    """The embedded model with factors for short texts and others for long ones."""
    shutil.copytree(embedded.model_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    size = config["head_dim"] // 2
    factors = {"short_factor": [1.0] * size, "long_factor": [2.0] * size}
    stretching = {"type": "longrope", "original_max_position_embeddings": border, **factors}
    (folder / "config.json").write_text(json.dumps({**config, "rope_scaling": stretching}))
    return str(folder)


def rows_with_a_long_one(folder: Path) -> tuple[str, int]:
    """Rows of which the longest that is read is held out, and its tokens; of 8 held-out ones 6 are read."""
    support.small_data(folder, "pair")
    rows = [json.loads(line) for line in (folder / "valid.jsonl").read_text().splitlines()]
    for number, times in ((2, 20), (3, 10)):  # the first of them is left out
        rows[number]["chosen"] = " ".join([rows[number]["chosen"]] * times)
    (folder / "valid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_dataset(folder, "pair", valid_fraction=0.1, seed=0)
    train, valid = (
        [
            row.length
            for row in tokenize_rows(part, support.tokenizer(), max_length=1024, too_long="error").examples
        ]
        for part in (dataset.train, dataset.valid)
    )
    unread, longest = valid[2:4]
    assert unread > longest > max(train + valid[:2] + valid[4:])
    return str(folder), longest


@pytest.fixture
def settings(tmp_path: Path, brief: dict[str, Any]) -> dict[str, Any]:
    """Of a run over such rows, for `support.new_run`."""
    data, _ = rows_with_a_long_one(tmp_path / "rows")
    return {**brief, "train__steps": 1, "eval__rows": 6, "data__path": data}


@pytest.fixture
def longest(tmp_path: Path) -> int:
    """Tokens of the longest row that such a run reads."""
    return rows_with_a_long_one(tmp_path / "rows")[1]


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_longest_row_that_is_read_decides(
    beyond: int, tmp_path: Path, settings: dict[str, Any], longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How the model is loaded, by what its scores are kept, what is noted, and what a person is told."""
    loaded: list[int] = []
    known: list[bool] = []
    load, digest = MlxBackend.load_policy, session.policy_digest

    def loading(backend: MlxBackend, *given: Any) -> Any:
        loaded.append(given[-1])
        return load(backend, *given)

    def knowing(*given: Any, long: bool) -> str:
        known.append(long)
        return digest(*given, long=long)

    monkeypatch.setattr(MlxBackend, "load_policy", loading)
    monkeypatch.setattr(session, "policy_digest", knowing)
    border = longest - beyond
    model = stretched(tmp_path / "model", border)
    run = support.new_run(tmp_path / "runs", **settings, model__path=model)
    assert support.engine(run) == 0
    assert (loaded, known) == ([longest], [bool(beyond)])
    assert run.env()["positions"] == {"list": "long" if beyond else "short", "border": border}
    told = [alert.message for alert in run.state().alerts if alert.code == "long-positions"]
    assert len(told) == beyond
    for message in told:
        assert f"longest row has {longest} tokens" in message
        assert f"data.max_length={border} with data.too_long=drop" in message


def test_a_resume_that_would_read_by_the_other_list_is_refused(
    tmp_path: Path, settings: dict[str, Any], longest: int
) -> None:
    model = stretched(tmp_path / "model", longest)
    run = support.new_run(tmp_path / "runs", **settings, model__path=model)
    assert support.engine(run) == 0
    file = run.path / "config.toml"
    before = file.read_text()
    file.write_text(before.replace("rows = 6", "rows = 8"))
    assert file.read_text() != before
    assert support.engine(run) == 3
    end = run.state().end
    assert isinstance(end, RunFailed)
    assert "LongRoPE" in end.message
    assert end.where == run.name
    assert "eval.rows" in (end.hint or "")
    file.write_text(before)
    assert support.engine(run) == 0, "which is what the hint says"


def test_a_run_that_began_before_its_list_was_noted(
    tmp_path: Path, settings: dict[str, Any], longest: int
) -> None:
    model = stretched(tmp_path / "model", longest)
    run = support.new_run(tmp_path / "runs", **settings, model__path=model)
    assert support.engine(run) == 0
    env = run.env()
    del env["positions"]
    write_json(run.path / "env.json", env)
    assert support.engine(run) == 0
    assert "positions" not in run.env(), "an export must not tell what nobody knows"
    assert [alert.code for alert in run.state().alerts].count("positions-unknown") == 1


def test_a_resume_that_would_choose_no_list_is_refused(
    tmp_path: Path, settings: dict[str, Any], longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stretched(tmp_path / "model", longest)
    run = support.new_run(tmp_path / "runs", **settings, model__path=model)
    assert support.engine(run) == 0
    monkeypatch.setattr(longrope, "positions", lambda model: None)
    assert support.engine(run) == 3


@pytest.mark.parametrize("border", [[4096], 0, math.inf])
def test_a_border_that_is_no_number_of_tokens(border: Any, tmp_path: Path, brief: dict[str, Any]) -> None:
    """The loader says what is wrong with it; beyond an infinite one nothing is long."""
    model = stretched(tmp_path / "model", border)
    run = support.new_run(tmp_path / "runs", **{**brief, "train__steps": 1}, model__path=model)
    if border == math.inf:
        assert support.engine(run) == 0
        assert "positions" not in run.env()
        return
    assert support.engine(run) == 2
    end = run.state().end
    assert isinstance(end, RunFailed)
    assert "mlx-lm cannot load this model" in end.message


def test_transformers_own_check_of_a_border_is_no_bug(tmp_path: Path) -> None:
    """It looks at a Phi's config.json when it loads the tokenizer."""
    model = stretched(tmp_path / "model", 4096)
    config = json.loads((Path(model) / "config.json").read_text())
    wrong = {"model_type": "phi3", "original_max_position_embeddings": [4096]}
    (Path(model) / "config.json").write_text(json.dumps({**config, **wrong}))
    with pytest.raises(UsageError, match="original_max_position_embeddings"):
        load_tokenizer(Path(model))


def told(
    settings: dict[str, Any], border: int, longest: int, *, long: bool, valid: Sequence[Example] = ()
) -> dict[str, str]:
    events: list[Event] = []
    config = RunConfig.model_validate(settings)
    tell(Reporter(events.append), config, Positions(border, long), longest, valid)
    return {event.code: event.message for event in events if isinstance(event, Alert)}


def test_of_a_sampled_answer_the_advice_is_a_shorter_one() -> None:
    """data.max_length would leave out nearly all prompts: the answer's tokens are kept free of it."""
    sampled = {"method": {"name": "grpo"}, "sampling": {"max_tokens": 77}}
    message = told(sampled, 100, 150, long=True)["long-positions"]
    assert "sampling.max_tokens are 150 tokens together" in message
    assert "sampling.max_tokens=27 with data.max_length=100" in message
    message = told(sampled, 100, 200, long=True)["long-positions"]
    assert "longest prompt has 123 tokens without its answer" in message


def test_what_is_generated_beyond_the_border_is_said_before() -> None:
    valid = support.examples()[:4]
    most = max(len(row.prompt_ids) for row in valid) + 30
    shown = {"eval": {"max_tokens": 30}}
    assert told(shown, most, 10, long=False, valid=valid) == {}
    assert f"come to {most} tokens" in told(shown, most - 1, 10, long=False, valid=valid)["past-positions"]
    assert told(shown, most - 1, 10, long=True, valid=valid).keys() == {"long-positions"}
    none_shown = {"eval": {"max_tokens": 30, "samples": 0}}
    assert told(none_shown, most - 1, 10, long=False, valid=valid) == {}
    for judge, said in (({}, True), ({"model": "base"}, True), ({"model": "org/other"}, False)):
        rewards = {"method": {"name": "grpo"}, "rewards": [{"name": "judge", **judge}]}
        assert ("the judge reads" in str(told(rewards, 9000, 10, long=False, valid=valid))) == said


def test_a_starting_adapter_that_was_learnt_with_the_other_list(tmp_path: Path) -> None:
    run = support.new_run(tmp_path / "runs")
    start = {"adapter": {"start": str(run.adapter)}}
    assert told(start, 100, 10, long=False) == {}, "of a model with one list"
    write_json(run.path / "env.json", {**run.env(), "positions": {"list": "long", "border": 100}})
    assert "factors for long texts" in told(start, 100, 10, long=False)["start-positions"]
    assert told(start, 100, 110, long=True).keys() == {"long-positions"}
    (run.path / "env.json").write_text("{")
    assert told(start, 100, 10, long=False) == {}


def test_an_answer_that_is_sampled_counts() -> None:
    rows = support.examples()
    longest = max(row.length for row in rows)
    for method, beside in (("dpo", 0), ("grpo", 77)):
        config = RunConfig.model_validate({"method": {"name": method}, "sampling": {"max_tokens": 77}})
        assert longest_of(config, rows) == longest + beside

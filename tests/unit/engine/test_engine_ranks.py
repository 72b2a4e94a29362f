"""What several ranks share, and how they fail together."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_align import embedded
from mlx_align.backends.base import ALONE, Scores, World
from mlx_align.config import TrainConfig
from mlx_align.data import Example
from mlx_align.engine.data import RunData
from mlx_align.engine.ranks import SharedControl, agree, copy_run, settle, together
from mlx_align.engine.reference import Reference
from mlx_align.engine.reference_cache import ReferenceCache, Trouble
from mlx_align.engine.reporter import Reporter
from mlx_align.engine.state import Window
from mlx_align.errors import AlignError, DataError, UsageError
from mlx_align.runs import STOP, RunDirectory
from mlx_align.runs.shards import Shards
from tests import support
from tests.worlds import on_ranks


def no_error(results: list[Any]) -> list[Any]:
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_divide_the_batches_of_one_rank_with_larger_ones(ranks: int) -> None:
    examples, objective = support.examples(count=16), support.objective("orpo")
    one = RunData(examples, (), TrainConfig(epochs=2.0, batch_size=3 * ranks), objective)
    config = TrainConfig(epochs=2.0, batch_size=3)
    parts = [RunData(examples, (), config, objective, rank, ranks) for rank in range(ranks)]
    assert {part.total_steps for part in parts} == {one.total_steps}
    for position in range(one.end):
        whole = one.batch(position)
        assert whole is not None
        batches = [part.batch(position) for part in parts]
        names = [set() if batch is None else set(batch.rows) for batch in batches]
        assert sum(map(len, names)) == whole.size
        assert set().union(*names) == set(whole.rows)
        assert max(map(len, names)) - min(map(len, names)) <= 1
        assert all(part.rows(position) == whole.rows for part in parts)


@pytest.mark.parametrize("ranks", [2, 3])
def test_under_a_budget_ranks_read_side_by_side_what_one_rank_accumulates(ranks: int) -> None:
    examples, objective = support.examples(count=16), support.objective("orpo")
    budget: dict[str, Any] = {"epochs": 2.2, "batch_size": None, "tokens_per_batch": 300}
    one = RunData(examples, (), TrainConfig(**budget, accumulate=2 * ranks), objective)
    config = TrainConfig(**budget, accumulate=2)
    parts = [RunData(examples, (), config, objective, rank, ranks) for rank in range(ranks)]
    assert one.end % ranks, "the last position has no batch for the last rank"
    assert {part.total_steps for part in parts} == {one.total_steps}
    for step in range(one.total_steps):
        shapes = [
            None if batch is None else (batch.rows, batch.prompt_ids.shape, batch.branch_ids.shape)
            for batch in (part.batch(at) for at in parts[0].window(step) for part in parts)
        ]
        batches = [one.batch(at) for at in one.window(step)]
        wanted = [(b.rows, b.prompt_ids.shape, b.branch_ids.shape) for b in batches if b is not None]
        assert shapes == wanted + [None] * (len(shapes) - len(wanted))
        assert {part.rows(step) for part in parts} == {one.rows(step)}
        assert {part.epoch(parts[0].window(step).stop) for part in parts} == {
            one.epoch(one.window(step).stop)
        }


def test_a_rank_may_have_no_rows_at_all() -> None:
    examples, config = support.examples(count=5), TrainConfig(batch_size=2, epochs=1.0)
    parts = [RunData(examples, (), config, support.objective("orpo"), rank, 2) for rank in range(2)]
    (last,) = [p for p in range(parts[0].end) if parts[1].batch(p) is None]
    assert parts[0].batch(last) is not None
    assert parts[1].window_counts(last) == {}
    lone = RunData(examples[:1], (), config, support.objective("orpo"), 1, 2)
    assert lone.batch(0) is None
    assert lone.rows(0) == (examples[0].name,)


def test_window_sums_are_those_of_all_ranks() -> None:
    def work(world: World) -> Window:
        window = Window()
        if world.rank == 0:
            scores = Scores(
                {"loss": 0.1}, {"margin": np.array([1.0, math.nan], np.float32)}, np.zeros((1, 1))
            )
            window.add(scores, 2, 30, 40)
        return window.of_all(world)

    first, second = no_error(on_ranks(2, work))
    assert (first.sums, first.rows, first.tokens, first.padded) == ({"loss": 0.1}, 2, 30, 40)
    assert math.isnan(second.metrics["margin"])
    assert second.sums == first.sums


def test_a_request_on_any_rank_is_one_to_all(tmp_path: Path) -> None:
    def work(world: World) -> bool:
        control = SharedControl(tmp_path / str(world.rank), world)
        if world.rank == 1:
            control.request(STOP)
        return control.requested(STOP)

    assert on_ranks(3, work) == [True] * 3


def test_what_fails_on_one_rank_fails_on_all() -> None:
    def work(world: World) -> None:
        with together(world):
            if world.rank == 1:
                raise DataError("no such file", where="rows.jsonl", hint="Copy it.")

    first, second = on_ranks(2, work)
    assert isinstance(first, DataError)
    assert isinstance(second, DataError)
    assert first.message.startswith("on rank 1 (")
    assert first.message.endswith("): no such file")
    assert (first.where, first.hint, second.message) == ("rows.jsonl", "Copy it.", "no such file")


def test_ranks_that_differ_refuse() -> None:
    def work(world: World) -> None:
        agree(world, {"the rows": "same", "the weights": f"of rank {world.rank // 2}"})

    for error in on_ranks(3, work):
        assert isinstance(error, DataError)
        assert "differ in the weights" in error.message
        assert error.message.startswith("rank 2 (")
    agree(ALONE, {"the rows": "same"})


def test_every_rank_begins_with_a_copy_of_rank_0s_run(tmp_path: Path) -> None:
    run = support.new_run(tmp_path / "runs", train__steps=1)
    assert support.engine(run) == 0

    def work(world: World) -> RunDirectory:
        own = run if world.rank == 0 else RunDirectory(tmp_path / f"private-{world.rank}")
        own.path.mkdir(exist_ok=True)
        copy_run(own, world)
        return own

    for copy in no_error(on_ranks(3, work))[1:]:
        ours, theirs = copy.checkpoints().latest(), run.checkpoints().latest()
        assert ours is not None
        assert theirs is not None
        files = sorted(path.name for path in theirs.iterdir())
        assert sorted(path.name for path in ours.iterdir()) == files
        assert all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in files)
        assert (copy.config(), copy.env()) == (run.config(), run.env())


def test_the_adapter_that_a_run_starts_from_travels_too(tmp_path: Path) -> None:
    first = support.new_run(tmp_path / "runs", train__steps=1)
    assert support.engine(first) == 0
    run = support.new_run(tmp_path / "runs", **{"adapter.start": str(first.adapter)})

    def work(world: World) -> RunDirectory:
        own = run if world.rank == 0 else RunDirectory(tmp_path / "private")
        own.path.mkdir(exist_ok=True)
        copy_run(own, world)
        return own

    _, copy = no_error(on_ranks(2, work))
    for name in ("adapters.safetensors", "adapter_config.json"):
        assert (copy.start / name).read_bytes() == (first.adapter / name).read_bytes()


def test_another_number_of_ranks_cannot_go_on(tmp_path: Path) -> None:
    run = support.new_run(tmp_path / "runs", train__steps=1)
    settle(run, ALONE)
    assert "ranks" not in run.env()
    assert support.engine(run) == 0
    (run.path / "env.json").write_text(json.dumps({**run.env(), "ranks": 2}))
    with pytest.raises(UsageError, match="began with 2 ranks, not 1") as caught:
        settle(run, ALONE)
    assert "mlx.launch -n 2 mlx-align runs resume" in str(caught.value.hint)


def test_model_and_data_are_found_where_they_are_on_each_machine(tmp_path: Path) -> None:
    run = support.new_run(tmp_path / "runs", **{"data.path": "sample"})
    facts = {**run.env(), "model_folder": "/another/machine/tiny-chat", "data": "/another/machine/rows"}

    class Second:
        rank, size = 1, 2

    (run.path / "env.json").write_text(json.dumps(facts))
    settle(run, Second())  # type: ignore[arg-type]
    assert run.env()["model_folder"] == str(embedded.model_folder().resolve())
    assert run.env()["data"] == str(embedded.sample_for("pair").resolve())


class Numbers:
    """A policy that counts its batches, and says of every token which rank read it."""

    def __init__(self, rank: int) -> None:
        self.rank, self.batches = rank, 0

    def logps(self, batch: Any) -> Any:
        self.batches += 1
        return batch.branch_ids * batch.branch_mask + np.float32(self.rank / 4)


def reference(folder: Path, world: World, policy: Any) -> Reference:
    report = Reporter(lambda _: None)
    return Reference(
        policy,
        Shards(folder / f"run-{world.rank}"),
        ReferenceCache(folder / f"cache-{world.rank}", "p", report, Trouble(folder, report)),
        config=TrainConfig(batch_size=2),
        report=report,
        world=world,
    )


def test_each_rank_scores_its_share_of_the_reference_and_all_know_it(tmp_path: Path) -> None:
    examples = (*support.examples()[:9], support.examples()[0])

    def work(world: World) -> tuple[int, Any]:
        policy = Numbers(world.rank)
        (rows,) = reference(tmp_path, world, policy).logps(examples, progress=lambda *_: None)
        return policy.batches, rows

    def check(results: list[Any], batches: list[int]) -> None:
        (counts, rows) = zip(*no_error(results), strict=True)
        assert list(counts) == batches
        for row, other, example in zip(*rows, examples, strict=True):
            assert [len(array) for array in row] == [len(ids) for ids in example.branch_ids]
            for array, same, ids in zip(row, other, example.branch_ids, strict=True):
                np.testing.assert_array_equal(array, same)
                assert len({float(x) for x in array - np.array(ids)}) == 1

    check(on_ranks(2, work), [3, 2])
    check(on_ranks(2, work), [0, 0])
    for path in (tmp_path / "run-0").iterdir():  # the second rank may know what the first has lost
        path.unlink()
    for path in (tmp_path / "cache-0" / "p").iterdir():
        path.unlink()
    check(on_ranks(2, work), [0, 0])
    kept, _ = Shards(tmp_path / "run-0").read(Anything())
    assert len(kept) == len({example.prompt_ids for example in examples})


class Anything:
    def __contains__(self, key: object) -> bool:
        return True


def test_a_stop_during_the_reference_pass_stops_all(tmp_path: Path) -> None:
    def work(world: World) -> None:
        control = SharedControl(tmp_path / f"control-{world.rank}", world)
        if world.rank == 1:
            control.request(STOP)

        def watched(done: int, total: int) -> None:
            if control.requested(STOP):
                raise AlignError("stopped")

        examples: tuple[Example, ...] = support.examples()[:9]
        reference(tmp_path, world, Numbers(world.rank)).logps(examples, progress=watched)

    assert [str(error) for error in on_ranks(2, work)] == ["stopped"] * 2

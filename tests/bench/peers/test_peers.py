"""The parts of the peer benchmark that decide what is compared, without any peer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.bench.peers import cells, flops, gate, oracle, run, summary, workload
from tests.bench.peers.contenders import CONTENDERS
from tests.bench.peers.workload import Row, Workload


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return workload.make(cells.quick()[0], tmp_path_factory.mktemp("cache"))


def test_the_headline_is_the_issues() -> None:
    cell = cells.headline()[0]
    assert cell.shape.parameters() == 41_559_552
    rows = workload._rows(cell)
    assert len(rows) == 24
    assert np.mean([len(row.prompt) for row in rows]) == pytest.approx(180, abs=2)
    assert np.mean([len(row.chosen) + len(row.rejected) for row in rows]) == pytest.approx(440, abs=4)


def test_a_workload_is_a_function_of_its_cell(work: Workload, tmp_path: Path) -> None:
    again = workload.make(cells.quick()[0], tmp_path)
    assert again.rows == work.rows
    assert (again.folder / "model.safetensors").read_bytes() == (
        work.folder / "model.safetensors"
    ).read_bytes()
    assert sum(v.size for v in load_file(work.folder / "model.safetensors").values()) == (
        cells.quick()[0].shape.parameters()
    )
    assert all(np.any(value) for value in load_file(work.adapter).values()), "every gradient is alive"


def test_the_tokenizer_gives_the_ids_back(work: Workload) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work.folder)
    for row in work.rows:
        text = workload.text_of(row.prompt + row.chosen, len(tokenizer))
        assert tokenizer(text)["input_ids"] == row.prompt + row.chosen


def test_operations_of_one_row_by_hand(work: Workload) -> None:
    config = {
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2,
        "hidden_size": 2, "intermediate_size": 3, "vocab_size": 5,
    }  # fmt: skip
    one = Workload(work.folder, "orpo", {}, [Row([1] * 4, [1] * 2, [1] * 2)], 1, 1, 0, 0, 1, 1, False, [], 1)
    linear, head = 2 * (4 * 4 + 3 * 6), 2 * 2 * 5
    attention = 4 * 2  # a key: one product with the query, one with the value
    keys = 2 * (4 * 4 / 2 + 2 * 4 + 2 * 2 / 2)
    lora = 2 * (4 * 4 + 3 * 5)
    want = 2 * (linear * 12 + head * 4) + 3 * (attention * keys + lora * 12)
    assert flops.counted(one, config)["pair"] == want
    assert flops.counted(one, config)["least"] < want


def test_the_gate_opens_for_the_oracle_and_for_nothing_else(work: Workload, tmp_path: Path) -> None:
    found = oracle.compute(work)
    (work.folder / "oracle.json").write_text(json.dumps(found), encoding="utf-8")
    right = found[oracle.RESPONSE]
    path = oracle.gradient_file(work.folder, oracle.RESPONSE)
    assert gate.judge(work.folder, oracle.RESPONSE, path, right["losses"]).passed
    for wrong in (oracle.WHOLE, oracle.BY_ROW):
        other = oracle.gradient_file(work.folder, wrong)
        verdict = gate.judge(work.folder, oracle.RESPONSE, other, found[wrong]["losses"])
        assert len(verdict.failed) == 3
    unmoved = [right["losses"][0], right["second_if_unmoved"]]
    assert gate.judge(work.folder, oracle.RESPONSE, path, unmoved).failed == [
        "effect of the first update: 1.0e+00 from the oracle's"
    ]
    halved = tmp_path / "halved.safetensors"
    save_file({name: value / 2 for name, value in load_file(path).items()}, halved)
    assert not gate.judge(work.folder, oracle.RESPONSE, halved, right["losses"]).passed
    assert not gate.judge(work.folder, oracle.RESPONSE, path, [float("nan")] * 2).passed


def test_the_oracles_gradient_is_the_derivative_of_its_loss(work: Workload) -> None:
    model = oracle.Oracle(work)
    rows = work.batch_rows(0)
    loss = oracle.loss_of(work, oracle.BY_ROW)
    _, upstream = loss(model.scored(rows))
    gradient = model.gradient(rows, upstream, whole=False)
    name, layer = next(iter(model.layers.items()))
    step, values = 1e-5, []
    for sign in (1, -1):
        layer.b.data[0, 0] += sign * step
        values.append(loss(model.scored(rows))[0])
        layer.b.data[0, 0] -= sign * step
    slope = (values[0] - values[1]) / (2 * step)
    assert slope == pytest.approx(gradient[f"{name}.lora_b"][0, 0], rel=1e-5)


def test_a_reference_pass_beforehand_is_charged_to_the_steady_state(work: Workload) -> None:
    inside = {"step_seconds": [5.0, 2.0, 2.0], "reference_seconds": 0.0}
    tokens = work.step_tokens()
    total, steady = sum(tokens), sum(tokens[1:])
    outside = {"step_seconds": [4.0, 1.0, 1.0], "reference_seconds": 2.0 * total / steady}
    assert summary.steady_rate(work, inside) == pytest.approx(steady / 4)
    assert summary.steady_rate(work, outside) == pytest.approx(summary.steady_rate(work, inside))


def test_arms_take_turns_and_say_how_busy_the_machine_was(
    work: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def process(python: Path, arguments: list[str]) -> None:
        module, target = arguments[1].rsplit(".")[-1], Path(arguments[3])
        ran.append(module)
        target.write_text(json.dumps({"rate": 1.0, "whole_seconds": 2.0}), encoding="utf-8")

    monkeypatch.setattr(run, "process", process)
    bench = run.Bench(["ours", "mlx-lm-lora", "trl"], 3, tmp_path)
    results: dict[str, dict[str, Any]] = {name: {"outcomes": []} for name in bench.arms}
    for repeat in range(3):
        bench._turn(repeat, cells.quick()[0], work, results, {})
    ours, lora, trl = (CONTENDERS[name].module for name in bench.arms)
    turns = [ran[at : at + 5] for at in range(0, 15, 5)]
    assert [turn[:2] for turn in turns] == [["flops", "flops"]] * 3
    assert [turn[2:] for turn in turns] == [[ours, lora, trl], [lora, trl, ours], [trl, ours, lora]]
    assert all(len(outcome["load_average"]) == 3 for of in results.values() for outcome in of["outcomes"])


def test_only_equivalent_arms_are_compared() -> None:
    def arm(rate: float, verdict: str) -> dict[str, object]:
        figures = {"median": rate}
        return {
            "gate": {"verdict": verdict}, "whole_rate": figures, "steady_rate": figures,
            "peak_over_base": 1, "resident_over_base": 1,
        }  # fmt: skip

    arms = {name: arm(1.0, "equivalent") for name in CONTENDERS}
    arms["ours"] = arm(3.0, "equivalent")
    arms["trl"] = arm(1.0, "not equivalent")
    arms["unsloth"] = {"error": "does not start"}
    assert set(summary.ratios(arms, "orpo")) == {"mlx-lm-lora"}
    assert summary.ratios(arms, "orpo")["mlx-lm-lora"]["whole"] == 3.0
    arms["ours"] = arm(3.0, "not equivalent")
    assert summary.ratios(arms, "dpo") == {}

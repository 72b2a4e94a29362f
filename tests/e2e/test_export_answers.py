"""The embedded model after ORPO answers in llama.cpp, by the template in its file, as it does in mlx-lm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_align import embedded
from mlx_align.engine.exporting import Exporter, Options
from mlx_align.export.llama import LlamaReader
from mlx_align.runs import RunDirectory
from tests import support

QUESTIONS, LONGEST = 50, 64


def questions() -> list[str]:
    file = embedded.samples_folder() / "preferences" / "test.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list(dict.fromkeys(row["prompt"] for row in rows))[:QUESTIONS]


def by_mlx_lm(run: RunDirectory, adapter: bool = True) -> list[str]:
    from mlx_lm import generate, load

    path = str(run.adapter) if adapter else None
    model, tokenizer, *_ = load(str(embedded.model_folder()), adapter_path=path)
    asked = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in questions()
    ]
    return [generate(model, tokenizer, ids, max_tokens=LONGEST) for ids in asked]


def by_llama(file: Path) -> list[str]:
    with LlamaReader(file) as reader:
        return [reader.answer([{"role": "user", "content": question}], LONGEST) for question in questions()]


@pytest.mark.slow
def test_the_same_answers(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    run = support.new_run(tmp_path / "runs", "orpo", train__steps=30, optim__lr=4e-3, adapter__layers="all")
    assert support.engine(run) == 0
    exporter = Exporter(run)
    said = by_mlx_lm(run)
    assert len(set(said)) > QUESTIONS / 2
    assert sum(one != other for one, other in zip(said, by_mlx_lm(run, adapter=False), strict=True)) > 5
    halves = exporter.export("gguf", tmp_path / "f16.gguf", Options(type="f16"))
    assert by_llama(halves.path) == said
    eighths = exporter.export("gguf", tmp_path / "q8_0.gguf", Options(type="q8_0"))
    same = sum(one == other for one, other in zip(by_llama(eighths.path), said, strict=True))
    assert same > 0.8 * QUESTIONS

"""`python -m mlx_align.engine.previewing DATA MODEL METHOD`: a data preview for a front end, as JSON lines.

MODEL and METHOD are the sections of a run's configuration, as JSON.

A process of its own: the tokenizer's library is slow to load and may bring a framework with it, and a
model's chat template is held to its time limit only in a main thread. It says how far it is, then what there
is, then one row for each line on stdin that has its number. It ends when stdin does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mlx_align import methods
from mlx_align.config import MethodConfig, ModelConfig
from mlx_align.data.preview import Survey, pieces, survey
from mlx_align.data.templates import ChatTokenizer
from mlx_align.engine.tokenizer import load_tokenizer, spare_torch
from mlx_align.errors import AlignError
from mlx_align.hub import resolve_model

Say = Callable[[dict[str, Any]], None]


def main() -> int:
    """Preview what the command line names; returns the exit code."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)  # whatever a library prints is not for the reader

        def say(message: dict[str, Any]) -> None:
            stdout.write(json.dumps(message) + "\n")
            stdout.flush()

        try:
            path, model, method = sys.argv[1:]
            spare_torch()
            sections = ModelConfig.model_validate_json(model), MethodConfig.model_validate_json(method)
            serve(Path(path), *sections, sys.stdin, say)
        except AlignError as error:
            say({"type": "failed", "error": told(error), "code": error.exit_code})
            return error.exit_code
        except (BrokenPipeError, KeyboardInterrupt):  # nobody listens any more
            return 1
    return 0


def serve(path: Path, model: ModelConfig, method: MethodConfig, requests: Iterable[str], say: Say) -> None:
    """Say what is in the data, then answer requests for rows.

    Args:
        path: a .jsonl file, or a folder with train.jsonl.
        model: whose tokenizer reads it.
        method: its kind of row is expected; its hyperparameters say whether prompts are scored.
        requests: numbers of rows, counted from 0, one a line.
        say: sends a message.

    Raises:
        AlignError: the model or the data cannot be read.
    """
    kind = methods.get(method.name)
    say({"type": "progress", "doing": "loading the tokenizer", "done": 0, "total": 0})
    tokenizer = load_tokenizer(resolve_model(model.path, model.revision).folder)

    def progress(done: int, total: int) -> None:
        say({"type": "progress", "doing": "reading rows", "done": done, "total": total})

    found = survey(path, kind.rows, tokenizer, progress)
    hyperparameters = kind.hyperparameters(**method.hyperparameters)
    say(_summary(found, scores_prompt=kind.scores_prompt(hyperparameters)))
    for line in requests:
        if line.strip().isdecimal() and int(line) < len(found.examples):
            say(_row(found, int(line), tokenizer))


def told(error: AlignError) -> dict[str, str | None]:
    """An error for another process."""
    return {"message": error.message, "where": error.where, "hint": error.hint}


def _summary(found: Survey, *, scores_prompt: bool) -> dict[str, Any]:
    return {
        "type": "survey",
        "scores_prompt": scores_prompt,
        "names": [example.name for example in found.examples],
        "prompts": [len(example.prompt_ids) for example in found.examples],
        "answers": [[len(ids) for ids in example.branch_ids] for example in found.examples],
        "findings": [vars(finding) for finding in found.findings],
        "faults": [told(fault) for fault in found.faults],
    }


def _row(found: Survey, index: int, tokenizer: ChatTokenizer) -> dict[str, Any]:
    example = found.examples[index]
    return {
        "type": "row",
        "index": index,
        "prompt": pieces(tokenizer, example.prompt_ids),
        "answers": [pieces(tokenizer, ids) for ids in example.branch_ids],
        "right": example.answer,
    }


if __name__ == "__main__":
    sys.exit(main())

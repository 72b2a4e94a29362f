"""The path of the data: file -> rows -> tokens -> batches."""

from __future__ import annotations

from mlx_align.data.batching import BatchPlan, collate, eval_batches
from mlx_align.data.jsonl import read_jsonl
from mlx_align.data.lint import Finding, lint
from mlx_align.data.rows import Message, Row, parse_row
from mlx_align.data.shapes import Shape, Sizes
from mlx_align.data.sources import Dataset, load_dataset
from mlx_align.data.templates import ChatTokenizer, Tokenizer, wrap_tokenizer
from mlx_align.data.tokenizing import Example, Tokenized, TooLong, render_prompt, tokenize_rows

__all__ = [
    "BatchPlan",
    "ChatTokenizer",
    "Dataset",
    "Example",
    "Finding",
    "Message",
    "Row",
    "Shape",
    "Sizes",
    "Tokenized",
    "Tokenizer",
    "TooLong",
    "collate",
    "eval_batches",
    "lint",
    "load_dataset",
    "parse_row",
    "read_jsonl",
    "render_prompt",
    "tokenize_rows",
    "wrap_tokenizer",
]

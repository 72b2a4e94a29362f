"""From a configuration and a file's rows to what a run works with."""

from __future__ import annotations

from mlx_align import methods
from mlx_align.backends.base import Objective
from mlx_align.config import RunConfig
from mlx_align.data import ChatTokenizer, Dataset, Tokenized, lint, tokenize_rows
from mlx_align.engine.reporter import Reporter
from mlx_align.methods.grpo import GrpoHyperparameters

FEW = 20
"""Fewer held-out rows than this say little: one row is more than five points of accuracy."""


def objective_of(config: RunConfig) -> Objective:
    """The configured method with its numbers."""
    method = methods.get(config.method.name)
    hp = method.hyperparameters(**config.method.hyperparameters)
    if not isinstance(hp, GrpoHyperparameters):
        return Objective(method, hp)
    sampling = config.sampling
    return Objective(
        method,
        hp.for_sampling(sampling.max_tokens),
        temperature=sampling.temperature,
        branches_at_once=config.train.branches_at_once,
    )


def tokenized(config: RunConfig, dataset: Dataset, tokenizer: ChatTokenizer) -> tuple[Tokenized, Tokenized]:
    """The rows to learn from and those that are held out, as token ids.

    Raises:
        DataError: a row cannot be used, or none is left.
    """
    sampled = methods.get(config.method.name).rows == "prompt"
    reserved = config.sampling.max_tokens if sampled else 0
    longest, too_long = config.data.max_length, config.data.too_long
    train, valid = (
        tokenize_rows(rows, tokenizer, max_length=longest, too_long=too_long, reserved=reserved)
        for rows in (dataset.train, dataset.valid)
    )
    return train, valid


def tell_findings(
    report: Reporter, config: RunConfig, dataset: Dataset, train: Tokenized, valid: Tokenized
) -> None:
    """Alert a person to what is odd about the rows."""
    limit = config.data.max_length
    if dropped := train.dropped + valid.dropped:
        text = f"{len(dropped)} rows are longer than data.max_length = {limit} tokens and were left out."
        report.alert("too-long", text, rows=dropped)
    if truncated := train.truncated + valid.truncated:
        text = f"{len(truncated)} prompts lost their beginning to fit data.max_length = {limit} tokens."
        report.alert("truncated", text, rows=truncated)
    if dataset.leaked:
        text = f"{dataset.leaked} held-out prompts are in the training data too: evaluation looks too good."
        report.alert("leak", text)
    if len(train.examples) < (config.train.batch_size or 0):
        sampled = methods.get(config.method.name).rows == "prompt"
        so = "a batch asks some twice" if sampled else "every batch is smaller than train.batch_size"
        report.alert("few-rows", f"There are only {len(train.examples)} rows: {so}.")
    if len(valid.examples) < FEW:
        text = f"Evaluation stands on {len(valid.examples)} held-out rows: its figures are rough."
        report.alert("few-held-out", text)
    for finding in lint(dataset.train, train):
        report.alert(finding.code, finding.message, rows=finding.rows)

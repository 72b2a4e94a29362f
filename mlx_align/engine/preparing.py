"""From a configuration and a file's rows to what a run works with."""

from __future__ import annotations

from pathlib import Path

from mlx_align import methods
from mlx_align.backends.adapter_files import read_facts
from mlx_align.backends.base import Objective
from mlx_align.combinations import COMPARED, UNCOMPARED, compares
from mlx_align.config import RunConfig
from mlx_align.data import ChatTokenizer, Dataset, Tokenized, lint, tokenize_rows
from mlx_align.engine.reporter import Reporter
from mlx_align.errors import UsageError
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
    longest, too_long, kept = config.data.max_length, config.data.too_long, reserved(config)
    train, valid = (
        tokenize_rows(rows, tokenizer, max_length=longest, too_long=too_long, reserved=kept)
        for rows in (dataset.train, dataset.valid)
    )
    return train, valid


def reserved(config: RunConfig) -> int:
    """Tokens to keep free for an answer that the policy will write."""
    return config.sampling.max_tokens if methods.get(config.method.name).rows == "prompt" else 0


def tell_filters(report: Reporter, config: RunConfig) -> None:
    """Alert a person to filters of the sampling, which the loss does not know of."""
    if on := config.sampling.filters:
        names = " and ".join(f"sampling.{name}" for name in on)
        text = (
            f"Completions are drawn with {names}, which the loss does not know of: it takes them for the "
            "unfiltered policy's own, so the gradient is not exact."
        )
        report.alert("filtered-sampling", text, level="info")


def refuse_dropout(config: RunConfig, start: Path) -> None:
    """Refuse a starting adapter whose dropout is in the way, as `check_combinations` does a configured one.

    Args:
        config: the run's.
        start: the folder of the starting adapter.

    Raises:
        UsageError: it has dropout, and the method compares with log-probabilities that have none.
    """
    if not compares(config):
        return
    try:
        dropout = float(read_facts(start)["lora_parameters"].get("dropout", 0.0))
    except (OSError, ValueError, KeyError, TypeError):
        return  # whoever loads it says what is wrong with it
    if dropout:
        raise UsageError(
            f"the starting adapter has a dropout of {dropout:g}: {COMPARED}",
            where=f"adapter.start = {config.adapter.start}",
            hint=f'Write "dropout": 0.0 into its adapter_config.json, or {UNCOMPARED}.',
        )


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

"""A cell as files that every arm can read: model, tokenizer, first adapter, token ids and their batches.

Everything is a function of the cell. The files lie in the cache folder, outside of git:

    config.json model.safetensors tokenizer*.json     a model folder in the Hugging Face layout, float32
    adapter/                                           the first adapter, under mlx-lm's names; B is not zero
    workload.json                                      rows, batches and numbers of the optimiser
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.peers.cells import HYPERPARAMETERS, Cell, Lengths, Shape

PAD, EOS = "<pad>", "<eos>"
WEIGHT_SPREAD, B_SPREAD = 0.02, 0.02
ROPE_THETA = 1_000_000.0


@dataclass(frozen=True)
class Row:
    """One pair as token ids; both answers end with the end-of-sequence token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def tokens(self) -> int:
        """2P + C + R: each answer has its prompt."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longer answer."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Workload:
    """What an arm is given. Rows are in the order of training: step i has rows i * batch and after."""

    folder: Path
    method: str
    hyperparameters: dict[str, float]
    rows: list[Row]
    batch: int
    steps: int
    warmup: int
    lr: float
    rank: int
    scale: float
    checkpointing: bool
    modules: list[str]
    layers: int

    @property
    def adapter(self) -> Path:
        """The first adapter's safetensors."""
        return self.folder / "adapter" / "adapters.safetensors"

    @property
    def max_length(self) -> int:
        """A limit that cuts nothing."""
        return max(row.longest for row in self.rows) + 8

    def batch_rows(self, step: int) -> list[Row]:
        """The rows of a step, counted from 0."""
        return self.rows[step * self.batch : (step + 1) * self.batch]

    def step_tokens(self) -> list[int]:
        """Unpadded pair tokens of each step."""
        return [sum(row.tokens for row in self.batch_rows(step)) for step in range(self.steps)]

    def first(self, steps: int) -> Workload:
        """The same up to update number `steps`."""
        return dataclasses.replace(self, steps=steps, warmup=0, rows=self.rows[: steps * self.batch])

    @staticmethod
    def read(folder: Path) -> Workload:
        """What `make` wrote."""
        tree = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
        rows = [Row(**row) for row in tree.pop("rows")]
        return Workload(folder=folder, rows=rows, **tree)


def make(cell: Cell, cache: Path) -> Workload:
    """The cell's folder, made unless it is there."""
    text = json.dumps(cell.describe(), sort_keys=True)
    folder = cache / f"{cell.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    if not (folder / "workload.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_model(cell.shape, folder, np.random.default_rng([cell.seed, 1]))
        _write_tokenizer(cell.shape.vocab, folder)
        _write_adapter(cell, folder, np.random.default_rng([cell.seed, 2]))
        _write_rows(cell, folder)
    return Workload.read(folder)


def text_of(ids: list[int], vocab: int) -> str:
    """Words that the trivial tokenizer turns back into these ids."""
    return " ".join(EOS if token == vocab - 1 else f"t{token}" for token in ids)


# Rows


def _write_rows(cell: Cell, folder: Path) -> None:
    rows = _in_batches(_rows(cell), cell)
    tree = {
        "method": cell.method,
        "hyperparameters": HYPERPARAMETERS[cell.method],
        "batch": cell.batch,
        "steps": cell.steps,
        "warmup": cell.warmup,
        "lr": cell.lr,
        "rank": cell.rank,
        "scale": cell.scale,
        "checkpointing": cell.checkpointing,
        "modules": list(cell.shape.linears()),
        "layers": cell.shape.layers,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    (folder / "workload.json").write_text(json.dumps(tree), encoding="utf-8")


def _rows(cell: Cell) -> list[Row]:
    rng = np.random.default_rng([cell.seed, 3])
    lengths, count = cell.lengths, cell.steps * cell.batch
    prompts = _draw(rng, lengths.prompt, lengths.prompt_spread, count, lengths)
    chosen = _draw(rng, lengths.response, lengths.response_spread, count, lengths)
    rejected = _draw(rng, lengths.response, lengths.response_spread, count, lengths)

    def ids(length: int) -> list[int]:
        return rng.integers(1, cell.shape.vocab - 1, length).tolist()

    def answer(length: int) -> list[int]:
        return [*ids(length - 1), cell.shape.vocab - 1]

    return [Row(ids(p), answer(c), answer(r)) for p, c, r in zip(prompts, chosen, rejected, strict=True)]


def _draw(rng: np.random.Generator, mean: int, spread: float, count: int, limits: Lengths) -> list[int]:
    """Lengths about a mean: a lognormal's quantiles in random order, so that a small sample has its shape."""
    if not spread:
        return [mean] * count
    from statistics import NormalDist

    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)])
    values = np.exp(spread * rng.permutation(quantiles))
    scaled = np.clip(values * mean / values.mean(), limits.shortest, limits.longest)
    return scaled.round().astype(int).tolist()


def _in_batches(rows: list[Row], cell: Cell) -> list[Row]:
    """Rows of similar length share a batch and batches come in random order, as in three of four trainers."""
    by_length = sorted(rows, key=lambda row: row.longest)
    batches = [by_length[i : i + cell.batch] for i in range(0, len(rows), cell.batch)]
    order = np.random.default_rng([cell.seed, 4]).permutation(len(batches))
    return [row for which in order for row in batches[which]]


# Model


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "rms_norm_eps": 1e-6,
        "rope_theta": ROPE_THETA,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": shape.vocab - 1,
        "pad_token_id": 0,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def _write_model(shape: Shape, folder: Path, rng: np.random.Generator) -> None:
    from safetensors.numpy import save_file

    def matrix(outputs: int, inputs: int) -> np.ndarray:
        return WEIGHT_SPREAD * rng.standard_normal((outputs, inputs), dtype=np.float32)

    def ones(size: int) -> np.ndarray:
        return np.ones(size, np.float32)

    weights = {"model.embed_tokens.weight": matrix(shape.vocab, shape.hidden)}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        for name, (inputs, outputs) in shape.linears().items():
            weights[f"{prefix}.{name}.weight"] = matrix(outputs, inputs)
        for name, size in (
            ("input_layernorm", shape.hidden),
            ("post_attention_layernorm", shape.hidden),
            ("self_attn.q_norm", shape.head_dim),
            ("self_attn.k_norm", shape.head_dim),
        ):
            weights[f"{prefix}.{name}.weight"] = ones(size)
    weights["model.norm.weight"] = ones(shape.hidden)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=1), encoding="utf-8")


def _write_tokenizer(vocab: int, folder: Path) -> None:
    """One word for one id: "t17" is 17. So a trainer that insists on text gets the workload's ids."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = {PAD: 0, **{f"t{i}": i for i in range(1, vocab - 1)}, EOS: vocab - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(PAD, special=True), AddedToken(EOS, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "eos_token": EOS}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts), encoding="utf-8")


def _write_adapter(cell: Cell, folder: Path, rng: np.random.Generator) -> None:
    """LoRA on every projection; B is small but not zero, so that every gradient is alive."""
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    for layer in range(cell.shape.layers):
        for name, (inputs, outputs) in cell.shape.linears().items():
            bound = 1 / np.sqrt(inputs)
            prefix = f"model.layers.{layer}.{name}"
            a = rng.uniform(-bound, bound, (inputs, cell.rank))
            b = B_SPREAD * rng.standard_normal((cell.rank, outputs))
            arrays[f"{prefix}.lora_a"] = a.astype(np.float32)
            arrays[f"{prefix}.lora_b"] = b.astype(np.float32)
    target = folder / "adapter"
    target.mkdir(exist_ok=True)
    save_file(arrays, target / "adapters.safetensors")

"""A model card: what a stranger on the hub should know of an export, and nothing that is only the owner's.

Of the data it says how many rows there were and their fingerprint, never what they say or where they lie. Of
the configuration it has the keys of `SHOWN`, none of which can hold a path.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from mlx_align.curves import series_of, svg
from mlx_align.events import Number
from mlx_align.export.provenance import Provenance
from mlx_align.run_state import RunState

README, CURVES = "README.md", "curves.svg"

SHOWN: dict[str, tuple[str, ...]] = {
    "adapter": ("type", "rank", "scale", "dropout", "modules", "layers"),
    "data": ("max_length", "too_long"),
    "optim": ("name", "lr", "schedule", "warmup", "min_lr", "weight_decay", "max_grad_norm"),
    "train": ("epochs", "steps", "batch_size", "tokens_per_batch", "accumulate", "seed"),
    "sampling": ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"),
}
"""Keys of the configuration that a card has, beside all of the method's own."""

LIBRARIES = {"mlx": "mlx", "mlx-fused": "mlx", "peft": "peft", "hf": "transformers"}
LONGROPE = "LongRoPE, trained with those for {list} texts; short are those of up to {border} tokens"
ADAPTERS = ("mlx", "peft", "gguf-adapter")
"""Targets without the base's weights."""

USE = {
    "mlx": """\
```sh
hf download {repo} --local-dir {name}
mlx_lm.generate --model {base} --adapter-path {name} --prompt "Hello"
```""",
    "mlx-fused": """\
```sh
mlx_lm.generate --model {repo} --prompt "Hello"
```""",
    "peft": """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{base}")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{repo}")
```""",
    "hf": """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
model = AutoModelForCausalLM.from_pretrained("{repo}")
```""",
    "gguf": """\
```sh
llama-cli -hf {repo}     # llama.cpp
ollama run hf.co/{repo}  # Ollama
```

LM Studio finds it by its name on the hub.""",
    "gguf-adapter": """\
```sh
hf download {repo} --local-dir {name}
llama-cli -m BASE.gguf --lora {name}/{gguf}
```

`BASE.gguf` is {base} as a GGUF file.""",
}
"""What to type, by target."""


@dataclass(frozen=True)
class Card:
    """All that a card says.

    Attributes:
        provenance: the origin.
        target: the format: a key of `USE`.
        repo: the repository's name, "owner/name".
        verification: one line that says what came of it.
        warnings: what a person should know who uses it.
        gguf: the name of the GGUF file, if there is one.
        rows: how many rows were trained on and held out; None: not known.
        before: the held-out measures before training; those after it are the provenance's.
        curves: the name of the picture beside the card; None: there is none.
    """

    provenance: Provenance
    target: str
    repo: str
    verification: str
    warnings: Sequence[str] = ()
    gguf: str | None = None
    rows: tuple[int, int] | None = None
    before: Mapping[str, Number] | None = None
    curves: str | None = None

    def text(self) -> str:
        """The card as Markdown, with its front matter."""
        parts = [
            self._front_matter(),
            f"# {self.repo.rsplit('/', 1)[-1]}",
            self._summary(),
            "## How to use it",
            self._usage(),
            *(f"**Note:** {_plain(warning)}" for warning in self.warnings),
            "## How it was trained",
            _table(("key", "value"), self._training()),
            "## Data",
            self._data(),
            *self._measures(),
            "## Verification",
            f"{_plain(self.verification)}. The figures are in `mlx-align.json`; `mlx-align verify FOLDER` "
            "measures again.",
            "## Provenance",
            _table(("", ""), self._origin()),
        ]
        return "\n\n".join(parts) + "\n"

    def _front_matter(self) -> str:
        origin = self.provenance
        facts: dict[str, Any] = {"pipeline_tag": "text-generation"}
        if origin.on_hub:
            facts["base_model"] = origin.base
            facts["base_model_relation"] = "adapter" if self.target in ADAPTERS else "finetune"
        if self.target in LIBRARIES:
            facts["library_name"] = LIBRARIES[self.target]
        facts["tags"] = ["mlx-align", origin.method, *(["lora"] if self.target in ADAPTERS else [])]
        # JSON's texts and lists are YAML's too, and quoted they are never taken for anything else.
        return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in facts.items()), "---"])

    def _summary(self) -> str:
        origin = self.provenance
        kind = "An adapter for" if self.target in ADAPTERS else "A merged model:"
        commit = f" (commit {_code(origin.base_commit)})" if origin.base_commit else ""
        page = f"[{origin.base}](https://huggingface.co/{origin.base})"
        base = page if origin.on_hub else _code(origin.base)
        return (
            f"{kind} {base}{commit}, trained by {origin.method.upper()} with mlx-align. The base's licence "
            "holds for it too."
        )

    def _usage(self) -> str:
        name = self.repo.rsplit("/", 1)[-1]
        base = "".join(letter for letter in self.provenance.base if letter.isalnum() or letter in "/._-")
        return USE[self.target].format(repo=self.repo, name=name, base=base, gguf=self.gguf)

    def _training(self) -> list[tuple[str, str]]:
        config = tomllib.loads(self.provenance.config)
        sections = {"method": tuple(config.get("method", {})), **SHOWN}
        if not config.get("rewards"):
            sections.pop("sampling")
        found = [
            (f"{section}.{key}", _code(config[section][key]))
            for section, keys in sections.items()
            for key in keys
            if key in config.get(section, {})
        ]
        for reward in config.get("rewards", ()):
            name = PurePath(str(reward.get("name")).replace("\\", "/")).name
            found.append(("reward", f"{_code(name)}, weight {reward.get('weight', 1.0):g}"))
        return found

    def _data(self) -> str:
        fingerprint = (
            f"Their fingerprint (SHA-256 over all rows) is {_code(self.provenance.data_fingerprint)}."
        )
        if self.rows is None:
            return f"The rows are not part of this repository. {fingerprint}"
        trained, held_out = self.rows
        return (
            f"{trained:,} rows to train on and {held_out:,} held out; they are not part of this repository. "
            f"{fingerprint}"
        )

    def _measures(self) -> list[str]:
        before, after = self.before or {}, self.provenance.metrics
        parts = []
        if after:
            rows = [(_code(name), _number(before.get(name)), _number(after[name])) for name in sorted(after)]
            step = f"after {self.provenance.step} steps"
            parts += ["## Measures on the held-out rows", _table(("measure", "before", step), rows)]
        if self.curves:
            parts += ["## Curves", f"![Training curves]({self.curves})"]
        return parts

    def _origin(self) -> list[tuple[str, str]]:
        origin = self.provenance
        read = [] if origin.positions is None else [("position factors", LONGROPE.format(**origin.positions))]
        versions = ", ".join(f"{name} {version}" for name, version in sorted(origin.versions.items()))
        return [
            ("run", _code(origin.run)),
            ("step", str(origin.step)),
            ("base", _code(origin.base) + (f" at {_code(origin.base_commit)}" if origin.base_commit else "")),
            ("base, SHA-256", _code(origin.base_digest)),
            ("adapter, SHA-256", _code(origin.adapter_digest)),
            *read,
            ("trained with", _plain(versions)),
        ]


def write(
    folder: Path,
    provenance: Provenance,
    target: str,
    repo: str,
    verification: str,
    state: RunState,
    gguf: str | None = None,
    warnings: Sequence[str] = (),
) -> list[Path]:
    """Write the card into an export's folder, and the run's curves beside it if it has any.

    Args:
        folder: the export's.
        provenance: the origin.
        target: the format: a key of `USE`.
        repo: "owner/name".
        verification: one line that says what came of it.
        state: the run, for its rows, its first evaluation and its curves.
        gguf: the name of the GGUF file, if there is one.
        warnings: what a person should know who uses it.

    Returns:
        The files.
    """
    series = series_of(state)
    started, untrained = state.started, next((each for each in state.evals if each.step == 0), None)
    card = Card(
        provenance, target, repo, verification, warnings, gguf,
        rows=None if started is None else (started.train_rows, started.valid_rows),
        before=None if untrained is None else untrained.metrics,
        curves=CURVES if series else None,
    )  # fmt: skip
    if series:
        picture = svg(series, title=f"Training curves of {repo}")
        (folder / CURVES).write_text(picture, encoding="utf-8")
    (folder / README).write_text(card.text(), encoding="utf-8")
    return [folder / README, *([folder / CURVES] if series else [])]


def _plain(text: str) -> str:
    """A text on one line that Markdown and HTML read as nothing but text."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in line)


def _code(value: object) -> str:
    """A value in a code span, in which nothing is markup."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return f"`{line.replace('`', chr(39)).replace('|', '/')}`"


def _number(value: Number) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

"""What can be asked of an export."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mlx_align.errors import UsageError
from mlx_align.export.gguf import convert, graft, quantise

GENERAL = ("verify", "force")
"""Options of every target."""

CHOICES = {
    "dtype": ("f32", "f16", "bf16"),
    "type": tuple(dict.fromkeys((*convert.FILE_TYPES, *graft.TYPES, *quantise.TYPES))),
    "quantization": ("kept", "none", "again", "compare"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How something is exported. What belongs to some targets only is None where it is not asked for.

    Attributes:
        dtype: "f32", "f16" or "bf16", of weights that are not quantised.
        type: of a GGUF: "f32", "f16", "bf16", "q8_0", "q4_k_m" and so on.
        base_gguf: a GGUF of the base, a file or owner/name/file.gguf on the hub: it is grafted on.
        quantization: "kept", "none" or "again": what becomes of the quantisation of an MLX model.
        bits: of the new quantisation.
        format: what a folder for the hub, LM Studio or Ollama holds.
        system: a system message for every conversation in Ollama.
        template: a file with a template in Go's language, for Ollama.
        parameters: sampling parameters that Ollama shall use, such as {"temperature": 0.7}.
        name: what Ollama shall call the model: it is then created there.
        repo: owner/name on the hub, or publisher/model in LM Studio.
        public: whether everybody may see it on the hub.
        verify: whether it is loaded and compared with what was trained.
        force: whether it may take the place of an export that is there.
    """

    dtype: str | None = None
    type: str | None = None
    base_gguf: str | None = None
    quantization: str | None = None
    bits: int | None = None
    format: str | None = None
    system: str | None = None
    template: str | None = None
    parameters: Mapping[str, float] | None = None
    name: str | None = None
    repo: str | None = None
    public: bool | None = None
    verify: bool = True
    force: bool = False

    def check(self, target: str, allowed: Collection[str]) -> None:
        """See that every option that is given belongs to the target and has a value that exists.

        Raises:
            UsageError: one does not.
        """
        for name, value in self._special().items():
            if name not in allowed:
                known = ", ".join(f"--{flag(each)}" for each in sorted(allowed))
                raise UsageError(
                    f"--{flag(name)} has no meaning for --to {target}",
                    hint=f"It takes {known}."
                    if known
                    else f"Leave it out: {target} has no options of its own.",
                )
            choices = CHOICES.get(name)
            if choices and value not in choices:
                raise UsageError(
                    f"there is no {flag(name)} '{value}'",
                    where=f"--{flag(name)}",
                    hint=f"Choose one of {', '.join(choices)}.",
                )

    def _special(self) -> dict[str, Any]:
        """The options that are given and do not belong to every target."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in GENERAL}
        return {name: value for name, value in values.items() if value is not None}


def flag(name: str) -> str:
    """An option's name on the command line, without its dashes."""
    return {"parameters": "parameter"}.get(name, name.replace("_", "-"))

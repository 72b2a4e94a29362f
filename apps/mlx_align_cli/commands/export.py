"""`mlx-align export`: an adapter goes where it is used, and is tried there."""

from __future__ import annotations

import json as jsonlib
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlx_align.errors import AlignError, UsageError
from mlx_align.paths import typed_new
from mlx_align_cli import naming, options
from mlx_align_cli.commands.generate import Checkpoint
from mlx_align_cli.display.text import clean, size

if TYPE_CHECKING:
    from mlx_align.engine.exporting import Choice, Exported, Exporter, Options

TARGETS = "mlx, peft, gguf-adapter, gguf, hf, mlx-fused, ollama, lmstudio, hub"
"""As in `engine.exporting`, which is too heavy for a help page."""

EXAMPLES = options.examples(
    "mlx-align export last --to gguf --type q8_0",
    "mlx-align export last --to ollama --name my-model",
    "mlx-align export last --to mlx-fused --quantization compare",
    "mlx-align export last --to hub --repo me/my-model --format hf",
)
WEIGHTS, PLACES = "Weights", "Places"
ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
GRACE = 10.0
"""Seconds in which what is half-written is removed, undisturbed."""

To = Annotated[
    list[str] | None, typer.Option("--to", metavar="TARGET", help=f"Where to: {TARGETS}. Repeatable.")
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="The folder or file to make (default: exports/ in the run)."),
]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="f32|f16|bf16", rich_help_panel=WEIGHTS, help="Of weights without quantisation."),
]
Type = Annotated[
    str | None,
    typer.Option(
        "--type", metavar="TYPE", rich_help_panel=WEIGHTS,
        help="Of a GGUF: f32, f16, bf16, q8_0, q5_1, q4_0; through llama.cpp q4_k_m and its kin.",
    ),
]  # fmt: skip
BaseGguf = Annotated[
    str | None,
    typer.Option(
        "--base-gguf", metavar="FILE", rich_help_panel=WEIGHTS,
        help="A GGUF of the base to put the adapter into: a file, or owner/name/file.gguf on the hub.",
    ),
]  # fmt: skip
Quantization = Annotated[
    str | None,
    typer.Option(
        metavar="kept|none|again|compare", rich_help_panel=WEIGHTS,
        help="What becomes of an MLX model's quantisation; 'compare' measures each and writes nothing.",
    ),
]  # fmt: skip
Bits = Annotated[
    int | None, typer.Option(min=2, max=8, rich_help_panel=WEIGHTS, help="Of a new MLX quantisation.")
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="TARGET", rich_help_panel=PLACES,
        help="What the hub, LM Studio or Ollama gets (default: peft for the hub, else gguf).",
    ),
]  # fmt: skip
System = Annotated[
    str | None,
    typer.Option(metavar="TEXT", rich_help_panel=PLACES, help="A system message for Ollama's model."),
]
Template = Annotated[
    str | None,
    typer.Option(metavar="FILE", rich_help_panel=PLACES, help="A template in Go's language, for Ollama."),
]
Parameter = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter", metavar="NAME=VALUE", rich_help_panel=PLACES,
        help="A sampling parameter for Ollama, e.g. temperature=0.7. Repeatable.",
    ),
]  # fmt: skip
OllamaName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", rich_help_panel=PLACES, help="Create it in Ollama by this name."),
]
Repo = Annotated[
    str | None,
    typer.Option(metavar="OWNER/NAME", rich_help_panel=PLACES, help="On the hub, or in LM Studio."),
]
Public = Annotated[
    bool, typer.Option("--public", rich_help_panel=PLACES, help="Everybody may see it on the hub.")
]
NoVerify = Annotated[
    bool, typer.Option("--no-verify", help="Do not load it and compare it with what was trained.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an export that is there.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Runs", epilog=EXAMPLES)(export)


def export(
    run: options.Run = "last",
    to: To = None,
    out: Out = None,
    checkpoint: Checkpoint = None,
    dtype: Dtype = None,
    type_: Type = None,
    base_gguf: BaseGguf = None,
    quantization: Quantization = None,
    bits: Bits = None,
    format_: Format = None,
    system: System = None,
    template: Template = None,
    parameter: Parameter = None,
    name: OllamaName = None,
    repo: Repo = None,
    public: Public = False,
    no_verify: NoVerify = False,
    force: Force = False,
    runs_dir: options.RunsDir = None,
    json: options.AsJson = False,
) -> None:
    """Bring a run's model to where it is used, and see there that it is the model that was trained.

    Every export is loaded by the program that will use it and compared with the trained model before it gets
    its name; one that differs leaves nothing.
    """
    if not to:
        raise UsageError("no target is named", where="--to", hint=f"Give one or more: {TARGETS}.")
    if out is not None and len(to) > 1:
        raise UsageError("--out belongs to one target", where="--out", hint="Export them one by one.")
    place = typed_new(str(out), "--out") if out is not None else None
    found = naming.find_run(runs_dir, run)
    from mlx_align.engine.exporting import Exporter, Options

    how = Options(
        dtype=dtype, type=type_, base_gguf=base_gguf, quantization=quantization, bits=bits, format=format_,
        system=system, template=template, parameters=_numbers(parameter), name=name, repo=repo,
        public=public or None, verify=not no_verify, force=force,
    )  # fmt: skip
    teller = Json() if json else Text()
    exporter = Exporter(found, checkpoint, teller.progress)
    with _cleared_up():
        if quantization == "compare":
            _compare(exporter, to, how, teller)
            return
        for target in to:
            with teller.told(target):
                teller.exported(exporter.export(target, place, how))


def _numbers(assignments: list[str] | None) -> dict[str, float] | None:
    """What NAME=VALUE says.

    Raises:
        UsageError: one of them does not say a number.
    """
    if not assignments:
        return None
    try:
        return {name: float(value) for name, _, value in (one.partition("=") for one in assignments)}
    except ValueError as error:
        raise UsageError(f"{error}", where="--parameter", hint="Give NAME=NUMBER: temperature=0.7.") from None


@contextmanager
def _cleared_up() -> Iterator[None]:
    """Who is told to end, loses the terminal or sees Ctrl-C first removes what is half-written."""
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {end: found for end in ENDS if (found := signal.getsignal(end)) in usual}
    leave = _Leave()
    for end in before:
        signal.signal(end, leave)
    try:
        yield
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)


class _Leave:
    """Ends the export at the first signal; others, soon after it, must not disturb the clearing up.

    Later ones end that too: an upload may have to be waited for.
    """

    def __init__(self) -> None:
        self._since = -math.inf

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._since > GRACE:
            self._since = now
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _compare(exporter: Exporter, to: list[str], how: Options, teller: Text | Json) -> None:
    if to != ["mlx-fused"]:
        raise UsageError("only --to mlx-fused has quantisations to compare", where="--quantization compare")
    from mlx_align.engine.exporting import choices

    with teller.told("mlx-fused"):
        teller.choices(list(choices(exporter, how)))


class Text:
    """For a person: what begins on stderr, what came of it on stdout."""

    def progress(self, stage: str, detail: str) -> None:
        """What begins."""
        print(clean(f"{stage} {detail}"), file=sys.stderr, flush=True)

    @contextmanager
    def told(self, target: str) -> Iterator[None]:
        """Errors in the block are told by the program."""
        yield

    def exported(self, made: Exported) -> None:
        """A finished export."""
        print(clean(f"{naming.short_path(made.path)}  {size(made.size)}"))
        print(clean(made.verification.line()))
        if made.verification.hint:
            print(clean(made.verification.hint))
        for warning in made.verification.warnings:
            print(clean(f"warning: {warning}"))
        for note in made.notes:
            print(clean(f"note: {note}"))
        if made.url:
            print(clean(made.url))
        if made.next_command:
            print(clean(f"next: {made.next_command}"))

    def choices(self, measured: list[Choice]) -> None:
        """The comparison of quantisations."""
        from mlx_align_cli.display.listing import print_table

        rows = [
            [
                choice.quantization if choice.bits is None else f"{choice.quantization}, {choice.bits} bits",
                size(choice.size),
                f"{choice.comparison.kl:.2g}",
                choice.comparison.arrived,
                "; ".join((*choice.verdict.problems, *choice.verdict.warnings)) or "good",
            ]
            for choice in measured
        ]
        print_table(("quantization", "size", "KL", "learnt", ""), rows)
        print(
            f"The adapter's own KL from its base is {measured[0].comparison.effect:.2g}. Nothing was written."
        )


class Json:
    """For a program: one line for everything, on stdout."""

    def progress(self, stage: str, detail: str) -> None:
        """What begins."""
        _line({"type": "progress", "stage": stage, "detail": detail})

    @contextmanager
    def told(self, target: str) -> Iterator[None]:
        """An error in the block is a line of its own, besides what the program says on stderr."""
        try:
            yield
        except AlignError as error:
            facts = {"message": error.message, "where": error.where, "hint": error.hint}
            _line({"type": "failed", "target": target, **facts})
            raise

    def exported(self, made: Exported) -> None:
        """A finished export."""
        _line(
            {
                "type": "exported", "target": made.target,
                "path": str(made.path.absolute()), "size": made.size,
                "verification": made.verification.json(), "notes": made.notes, "next": made.next_command,
                "url": made.url,
            }
        )  # fmt: skip

    def choices(self, measured: list[Choice]) -> None:
        """The comparison of quantisations."""
        for choice in measured:
            _line(
                {
                    "type": "choice", "quantization": choice.quantization, "bits": choice.bits,
                    "size": choice.size, "figures": choice.comparison.json(),
                    "problems": choice.verdict.problems, "warnings": choice.verdict.warnings,
                }
            )  # fmt: skip


def _line(facts: dict[str, Any]) -> None:
    print(jsonlib.dumps(facts, ensure_ascii=False), flush=True)

"""One export or verification that is to be done, is under way, or is done; and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.text import Text

from mlx_align.errors import AlignError, InterruptedRunError
from mlx_align_cli.display.text import clean, percent, size
from mlx_align_tui.live.exporting import Exporting

State = Literal["waiting", "running", "done", "failed", "cancelled"]
SIGNS: dict[State, tuple[str, str]] = {
    "waiting": ("○", "quiet"),
    "running": ("▶", "primary"),
    "done": ("✔", "success"),
    "failed": ("✘", "error"),
    "cancelled": ("■", "warning"),
}
INDENT = "  "


@dataclass
class Job:
    """Something to do.

    Attributes:
        title: the target, or what is verified.
        program: what does it.
        state: how far it is.
        stages: what it has begun, the newest last.
        result: what came of it: its "exported" message, or a verification.
        choices: the quantisations that were compared.
        error: why it failed.
    """

    title: str
    program: Exporting
    state: State = "waiting"
    stages: list[str] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    choices: list[dict[str, Any]] = field(default_factory=list)
    error: AlignError | None = None

    def hear(self, message: dict[str, Any]) -> None:
        """Take what the program said."""
        match message.get("type"):
            case "progress":
                self.stages.append(f"{message['stage']} {message['detail']}")
            case "choice":
                self.choices.append(message)
            case "failed":
                self.error = AlignError(message["message"], where=message["where"], hint=message["hint"])
            case "exported":
                self.result = message
            case None:
                self.result = {"verification": message}

    def end(self, error: AlignError | None = None) -> None:
        """Say that it is over; `error` is what nobody has told yet."""
        self.error = self.error or error
        cancelled = isinstance(self.error, InterruptedRunError)
        self.state = "cancelled" if cancelled else "failed" if self.error else "done"

    @property
    def next_command(self) -> str:
        """What to type to use the export; empty where there is nothing to type."""
        return str(self.result.get("next") or "")


def shown(job: Job, variables: dict[str, str]) -> Text:
    """A job as lines."""
    sign, colour = SIGNS[job.state]
    text = Text()
    text.append(f"{sign} {clean(job.title)}", style=f"bold {variables.get(colour, '')}")
    if "size" in job.result:
        text.append(f"  {size(job.result['size'])}")
    quiet = variables.get("quiet", "")
    if job.state in ("running", "waiting"):
        for n, stage in enumerate(job.stages):
            last = n == len(job.stages) - 1
            _line(text, f"{'▸' if last else '✔'} {stage}", "" if last else quiet)
        _line(
            text,
            "waiting for its turn" if job.state == "waiting" else "" if job.stages else "starting ...",
            quiet,
        )
    if path := job.result.get("path"):
        _line(text, str(path), quiet)
    if verification := job.result.get("verification"):
        text.append(verified(verification, variables))
    for choice in job.choices:
        _choice(text, choice, variables)
    for note in job.result.get("notes", ()):
        _line(text, f"note: {note}", quiet)
    if job.result.get("url"):
        _line(text, job.result["url"], variables.get("accent", ""))
    if job.next_command:
        _line(text, f"next: {job.next_command}", variables.get("accent", ""))
    if job.error is not None:
        _failed(text, job, variables)
    return text


def verified(facts: dict[str, Any], variables: dict[str, str]) -> Text:
    """What came of a verification, line by line."""
    text, figures = Text(), facts.get("figures")
    if not facts.get("verified") or figures is None:
        _line(text, f"not verified: {facts.get('reason')}", variables.get("warning", ""))
        return text
    good = variables.get("success", "")
    _line(text, f"verified by {figures['loader']}, on {figures['contexts']} next tokens", good)
    rows = (
        ("largest difference of a probability", _small(figures["difference"])),
        ("KL from the model that was trained", _small(figures["kl"])),
        ("KL between it and its base", _small(figures["effect"])),
        ("of what was learnt is in it", percent(figures["share"])),
        ("likeliest token is the same in", percent(figures["agreement"])),
    )
    for name, value in rows:
        text.append(f"\n{INDENT}{value:>9}", style="bold")
        text.append(f"  {name}", style=variables.get("quiet", ""))
    for warning in facts.get("warnings", ()):
        _line(text, f"! {warning}", variables.get("warning", ""))
    return text


def name_of(path: Path) -> str:
    """A verification's title."""
    return f"verify {path.name}"


def _failed(text: Text, job: Job, variables: dict[str, str]) -> None:
    error, colour = job.error, "warning" if job.state == "cancelled" else "error"
    if error is None:
        return
    _line(text, error.message, variables.get(colour, ""))
    if error.where:
        _line(text, f"at {error.where}", variables.get("quiet", ""))
    if error.hint:
        _line(text, error.hint)


def _choice(text: Text, choice: dict[str, Any], variables: dict[str, str]) -> None:
    bits = "" if choice["bits"] is None else f", {choice['bits']} bits"
    said = "; ".join((*choice["problems"], *choice["warnings"])) or "good"
    colour = "error" if choice["problems"] else "warning" if choice["warnings"] else "success"
    figures = choice["figures"]
    row = f"{choice['quantization'] + bits:<15} {size(choice['size']):>8}  KL {_small(figures['kl']):>8}"
    _line(text, f"{row}  {said}", variables.get(colour, ""))


def _line(text: Text, line: str, style: str = "") -> None:
    if line:
        text.append(f"\n{INDENT}{clean(line)}", style=style)


def _small(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"

"""The page as a whole."""

from __future__ import annotations

from pathlib import Path

from mlx_align import __version__
from mlx_align.errors import AlignError
from mlx_align.report import facts, sections
from mlx_align.report.markup import Markup, joined, tag
from mlx_align.report.style import CSS
from mlx_align.runs import RunDirectory
from mlx_align.runs.atomic import write_text

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Even if something got past the escaping, a browser would load nothing and run nothing."""


def page(run: RunDirectory) -> str:
    """A run as a whole HTML document. Of paths in its configuration and origin it has only the last part.

    Args:
        run: in whatever condition it is; one that runs is reported as it is now.

    Raises:
        AlignError: a file of the run cannot be read.
    """
    state, config, env = run.state(), run.config(), run.env()
    condition, measures = run.condition(state), facts.measures(state)
    body = [
        sections.heading(run.name, state, condition, config, env.get("commit")),
        sections.tiles(measures),
        sections.curves(state, run.name),
        sections.held_out(measures, state),
        sections.samples(state),
        sections.rollout(state),
        sections.alerts(state, condition),
        sections.exports(facts.exports(run)),
        sections.training(state),
        sections.configuration(config, env),
        sections.provenance(env, run.name),
        tag("footer", f"Made by mlx-align {__version__} from the run's own log."),
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{run.name} · mlx-align"),
        tag("style", Markup(CSS)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', joined(body)), lang='en')}\n"


def write(run: RunDirectory, path: Path) -> None:
    """Write the page to a file, whose folder is made if it is not there.

    Raises:
        AlignError: a file of the run cannot be read, or this one not be written.
    """
    text = page(run)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise AlignError(
            f"the report cannot be written: {error.strerror or error}",
            where=str(path),
            hint="Choose another file with -o.",
        ) from None

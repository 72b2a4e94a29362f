"""The `mlx-align` program: its commands, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from mlx_align.errors import EXIT_CODES, AlignError
from mlx_align_cli import errors, ranks
from mlx_align_cli.commands import (
    chat,
    config,
    doctor,
    export,
    generate,
    import_,
    plan,
    report,
    runs,
    serve,
    train,
    tui,
    verify,
)

ENDED = {129: "the terminal was closed", 143: "ended by SIGTERM (in both cases the run saves and stops)"}
EPILOG = "Exit codes: " + ", ".join(f"{code} {text}" for code, text in {**EXIT_CODES, **ENDED}.items()) + "."


@dataclass
class Session:
    """What the options before the command's name say."""

    debug: bool = False


app = typer.Typer(
    name="mlx-align",
    help="Teach a language model your preferences on your own machine: data in, adapter out.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback if there is a bug.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=doctor.print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Teach a language model your preferences on your own machine: data in, adapter out."""
    if isinstance(context.obj, Session):
        context.obj.debug = debug


train.register(app)
app.add_typer(runs.app, name="runs", rich_help_panel="Runs")
generate.register(app)
chat.register(app)
serve.register(app)
import_.register(app)
export.register(app)
verify.register(app)
report.register(app)
tui.register(app)
plan.register(app)
app.add_typer(config.app, name="config", rich_help_panel="Setup")
doctor.register(app)


def main() -> None:
    """Run the program and exit with its documented code; never a traceback for an error a person can mend."""
    arguments = sys.argv[1:]
    sys.exit(ranks.quietly(run, arguments) if ranks.assists() else run(arguments))


def run(arguments: list[str]) -> int:
    """Run one command line.

    Returns:
        the exit code.
    """
    session = Session()
    try:
        app(args=arguments or tui.without_arguments(), prog_name="mlx-align", obj=session)
    except AlignError as error:
        errors.tell(error)
        return error.exit_code
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say
        errors.drop_unread()
        return 1
    except Exception as error:
        errors.tell_bug(error, session.debug)
        return 1
    return 0


if __name__ == "__main__":
    main()

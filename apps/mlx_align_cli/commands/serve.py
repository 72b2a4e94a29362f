"""`mlx-align serve`: a run's model for any app that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_align_cli import naming, options
from mlx_align_cli.commands.generate import SUBJECT, Checkpoint, find_subject

if TYPE_CHECKING:
    from mlx_align.serving import Server

EXAMPLES = options.examples("mlx-align serve last", "mlx-align serve last --port 8081 --checkpoint best")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Runs", epilog=EXAMPLES)(serve)


def serve(
    subject: Annotated[str, SUBJECT],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes any that is free.")] = 8080,
    checkpoint: Checkpoint = None,
    runs_dir: options.RunsDir = None,
) -> None:
    """Serve a run's model over HTTP, for any chat app that can use an OpenAI-compatible server.

    The server is mlx-lm's. It has no password: whoever can reach its address can use it.
    """
    from mlx_align import backends
    from mlx_align.config import BackendConfig
    from mlx_align.serving import Server, free_address

    address = free_address(host, port)
    who = find_subject(subject, runs_dir, checkpoint, False)
    backends.create(BackendConfig())  # where MLX is missing, this says so better than the server would
    if not address.private:
        print(f"warning: everyone who can reach {host} can use this server", file=sys.stderr)
    print(f"loading {who.model.name} with {who.adapter or 'no adapter'}", file=sys.stderr)
    run = naming.run_with(who.adapter) if who.adapter else None
    server = Server(run.name if run else subject, who.model, who.adapter, address)
    raise typer.Exit(_lead(server))


def _lead(server: Server) -> int:
    """Tell how the server is reached once it answers, and pass Ctrl-C on to it; returns its exit code."""
    try:
        server.wait_until_ready()
        print(f"{server.address.url}\n\n{curl(server.address.url)}\n", flush=True)
        print("Give an app this address; any API key will do. Ctrl-C ends it.", file=sys.stderr)
        code = server.wait()
    except KeyboardInterrupt:
        code = server.stop()
    except BaseException:
        server.kill()
        raise
    return code if code >= 0 else 128 - code


def curl(url: str) -> str:
    """A command line that asks a server something."""
    from mlx_align.serving import question

    words = ["curl", "-s", f"{url}/chat/completions", "-H", "Content-Type: application/json"]
    return shlex.join([*words, "-d", json.dumps(question("Hello"))])

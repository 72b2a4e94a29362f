"""The same app in a browser: a small web server that starts one process of it for each page that is opened.

The page needs nothing but this server. Since a browser lets any page talk to this machine, requests that come
from other pages or ask for other names are refused: whoever gets in can start processes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import sys
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler
from textual_serve.server import Server

from mlx_align.serving import Address, free_address

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
POLICY = "style-src 'self' 'unsafe-inline'; font-src 'self' data:; frame-ancestors 'none'"
"""No fonts from elsewhere, which textual-serve's page would fetch, and no page around this one."""
FONTS = re.compile(r"<link[^>]*fonts\.[^>]*>")
"""What textual-serve's page would have the browser fetch from elsewhere; the policy would refuse it, too."""
WARNING = "Whoever can reach this port can start processes and read your runs. Ctrl-C ends it."


def serve(root: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve the app until Ctrl-C.

    Args:
        root: the folder that holds the runs.
        host: the address to listen on.
        port: the port; 0 takes any that is free.

    Raises:
        UsageError: nothing can listen there.
    """
    BrowserServer(root, free_address(host, port)).serve()


class BrowserServer(Server):
    """textual-serve's server, for one app, and closed to other pages.

    Args:
        root: the folder that holds the runs.
        address: from `mlx_align.serving.free_address`.
    """

    def __init__(self, root: Path, address: Address) -> None:
        program = ["-P", "-m", "mlx_align_cli.main", "tui", "--runs-dir", str(root.resolve())]
        super().__init__(
            shlex.join([sys.executable, *program]), host=address.host, port=address.port, title="mlx-align"
        )
        self.address = address
        self.url = address.url.removesuffix("/v1")
        self._pages: set[asyncio.Task[Any]] = set()

    def serve(self, debug: bool = False) -> None:
        """Serve until Ctrl-C, and say where once it can be reached."""
        self.initialize_logging()
        web.run_app(
            self._make_app(),
            host=self.host,
            port=self.port,
            print=lambda *_: self.announce(),
            access_log=None,
        )

    def initialize_logging(self) -> None:
        """Say nothing of requests, only of what goes wrong."""
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("textual-serve").addFilter(_is_news)

    async def on_startup(self, app: web.Application) -> None:
        """Say nothing yet: the port does not listen so early."""

    def announce(self) -> None:
        """Say where it is, and what it means that it is there."""
        print(self.url, flush=True)
        print(WARNING, file=sys.stderr, flush=True)
        if not self.address.private:
            print(f"warning: other machines can reach {self.host}, and there is no password", file=sys.stderr)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """One page and its process, until either ends."""
        page = cast("asyncio.Task[Any]", asyncio.current_task())
        self._pages.add(page)
        try:
            return await super().handle_websocket(request)
        finally:
            self._pages.discard(page)

    async def on_shutdown(self, app: web.Application) -> None:
        """End the pages that are still open: nobody waits until they are closed."""
        pages = list(self._pages)
        for page in pages:
            page.cancel()
        await asyncio.gather(*pages, return_exceptions=True)

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self.guard)
        return app

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what another page sends, and names that are not this machine's."""
        if not self.admits(request.headers.get("Host", ""), request.headers.get("Origin")):
            raise web.HTTPForbidden(text="This address may only be used from its own page.")
        response = await handler(request)
        if isinstance(response, web.Response) and response.content_type == "text/html":
            response.text = FONTS.sub("", response.text or "")
        if not response.prepared:
            response.headers["Content-Security-Policy"] = POLICY
        return response

    def admits(self, host: str, origin: str | None) -> bool:
        """Whether a request may come in.

        Args:
            host: the name that it asks for; on a loopback address it must be one of this machine's own,
                for any page can have its name lead here.
            origin: the page that sends it, None where a person has typed the address.
        """
        name = urlsplit(f"//{host}").hostname
        if self.address.private and name not in LOCAL_NAMES:
            return False
        return origin is None or urlsplit(origin).netloc == host

    async def handle_index(self, request: web.Request) -> Any:
        """The page, with its links under the name by which it was asked for."""
        self.public_url = f"{request.scheme}://{request.host}"
        return await super().handle_index(request)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a record says more than that somebody has closed the page."""
    return not (record.exc_info and isinstance(record.exc_info[1], ConnectionError))

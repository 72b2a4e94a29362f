"""The served app and the report in a browser; and the server as other pages meet it, which needs none."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlx_align.report import write
from tests.conftest import ROOT
from tests.tui.fake_engine import written

aiohttp = pytest.importorskip("aiohttp", reason="the extra 'serve' is not installed")
pytest.importorskip("textual_serve", reason="the extra 'serve' is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
DEADLINE = 60.0


def browser() -> str:
    """A Chromium on this machine; CHROMIUM names one elsewhere."""
    named = [os.environ.get("CHROMIUM", ""), *BROWSERS, str(MAC)]
    found = next((path for name in named if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine (CHROMIUM names one)")
    return found


class Page:
    """A page in a browser without a window, 1280 x 900, talked to in Chromium's own protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._sent = 0
        self.asked: list[str] = []

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Have something done; what the page asks for meanwhile is kept in `asked`."""
        self._sent += 1
        await self._socket.send_json({"id": self._sent, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=DEADLINE)
            if message.get("method") == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
            if message.get("id") == self._sent:
                assert "error" not in message, message
                return dict(message["result"])

    async def go(self, url: str) -> None:
        """Open an address and wait until it has loaded."""
        await self.send("Network.enable")
        await self.send("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def value(self, script: str) -> Any:
        """What a script comes to."""
        answer = await self.send("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until a script comes to true."""
        async with asyncio.timeout(DEADLINE):
            while not await self.value(script):
                await asyncio.sleep(0.05)

    async def picture(self, *, unlike: bytes = b"", details: int = 0) -> bytes:
        """What it looks like, once it has settled on another picture, and one with so many details."""
        alike: list[bytes] = []
        async with asyncio.timeout(DEADLINE):
            while len(alike) < 4 or alike[0] == unlike or details_of(alike[0]) < details:
                answer = await self.send("Page.captureScreenshot", format="png")
                png = base64.b64decode(answer["data"])
                alike = [*alike, png] if png in alike else [png]
                await asyncio.sleep(0.25)
        return alike[0]


@asynccontextmanager
async def opened(profile: Path) -> AsyncIterator[Page]:
    """A browser with one empty page; it ends with the block."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,900"]
    process = subprocess.Popen(
        [browser(), *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "DevTools listening on" in line)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{urlsplit(line.split()[-1]).netloc}/json/list") as answer:
                address = next(t for t in await answer.json() if t["type"] == "page")["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=1 << 26) as socket:
                yield Page(socket)
    finally:
        process.kill()
        process.communicate()


def keep(name: str, png: bytes) -> bytes:
    """Store a picture where BROWSER_PICTURES says, for who wants to look."""
    if folder := os.environ.get("BROWSER_PICTURES"):
        (Path(folder) / f"{name}.png").write_bytes(png)
    return png


def details_of(png: bytes) -> int:
    """How many different rows of pixels a picture has: an empty page has one or two."""
    assert png.startswith(b"\x89PNG")
    width = int.from_bytes(png[16:20])
    depth = {2: 3, 6: 4}[png[25]]
    data, at = b"", 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        data += png[at + 8 : at + 8 + length] if png[at + 4 : at + 8] == b"IDAT" else b""
        at += length + 12
    raw, line = zlib.decompress(data), width * depth + 1
    return len({raw[n : n + line] for n in range(0, len(raw), line)})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The app, served for a folder with one run; gives its address and ends it."""
    written(tmp_path / "runs", steps=40)
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_align_cli.main", "tui", "--serve", "--port", "0", "--runs-dir", "runs"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'apps'}"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    url = process.stdout.readline().strip()
    assert url, process.stderr.read()
    yield url
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert "Whoever can reach this port can start processes" in said
    assert "Traceback" not in said


async def status(url: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return int(answer.status)


async def screen(url: str, until: str, **headers: str) -> str:
    """What the app shows over its socket, until these words are there."""
    seen = ""
    async with aiohttp.ClientSession() as session:
        address = f"{url.replace('http', 'ws', 1)}/ws?width=80&height=24"
        async with session.ws_connect(address, headers=headers) as socket, asyncio.timeout(DEADLINE):
            async for message in socket:
                seen += message.data.decode("utf-8", "replace") if isinstance(message.data, bytes) else ""
                if until in seen:
                    await socket.send_json(["stdin", "q"])
                    break
    return seen


def test_the_app_is_served_to_its_own_page_and_to_no_other(server: str) -> None:
    async def story() -> None:
        place = urlsplit(server)
        assert place.hostname == "127.0.0.1"
        async with aiohttp.ClientSession() as session, session.get(server) as answer:
            text = await answer.text()
            assert answer.status == 200
            assert f"ws://127.0.0.1:{place.port}/ws" in text
            assert "font-src 'self'" in answer.headers["Content-Security-Policy"]
        assert await status(server, Host="evil.example") == 403
        assert await status(server, Origin="https://evil.example") == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await screen(server, "", Origin="https://evil.example")
        assert refused.value.status == 403
        seen = await screen(server, "finished", Origin=server)
        assert "orpo" in seen

    asyncio.run(story())


def test_the_served_app_in_a_browser(server: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(tmp_path / "profile") as page:
            await page.go(server)
            await page.until("document.body.classList.contains('-first-byte')")
            runs = keep("served", await page.picture(details=60))
            await page.value("document.querySelector('.xterm-helper-textarea').focus()")
            for kind in ("keyDown", "keyUp"):
                await page.send("Input.dispatchKeyEvent", type=kind, text="?", key="?", code="Slash")
            keep("served-help", await page.picture(unlike=runs, details=60))
            fetched = {urlsplit(url).netloc for url in page.asked if not url.startswith("data:")}
            assert urlsplit(server).netloc in fetched
            assert await page.value("document.fonts.size") == 0, "none came from elsewhere"

    asyncio.run(story())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_in_a_browser(tmp_path: Path, scheme: str) -> None:
    run = written(tmp_path / "runs", steps=60)
    report = tmp_path / "report.html"
    write(run, report)
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(part => part > 200)"

    async def story() -> None:
        async with opened(tmp_path / "profile") as page:
            await page.send(
                "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
            )
            await page.go(report.as_uri())
            assert await page.value(lightness) is (scheme == "light")
            assert page.asked == [report.as_uri()], "it needs nothing else"
            assert await page.value("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut"
            assert await page.value("document.querySelectorAll('svg path').length") > 8
            keep(f"report-{scheme}", await page.picture(details=100))

    asyncio.run(story())

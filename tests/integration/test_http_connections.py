"""Who holds connections to the HTTP port without asking for anything, and what goes on all the same."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import resource
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.frames.folders import RootFolders
from adapters.hmi import connections
from adapters.pki import PlantAuthority
from tests.support.hmi import HmiBench, make_verdict, serving
from tests.support.waiting import eventually

PROBES = ("/healthz", "/readyz", "/metrics")
CROWD = """
import socket, sys
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30) for _ in range(1100)]
print("all there", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    pki = tmp_path / "pki"
    PlantAuthority.create(pki, name="plant", days=5).issue("cangate", hosts=["127.0.0.1"], uri="urn:cangate", days=5)
    return pki


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_WITHIN_S", 0.5)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "_SPARE_CONNECTIONS", 2)


class Guest:
    """A connection whose bytes the test chooses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def is_let_go(self, within_s: float = 10) -> bool:
        """Read on until the connection ends; False where it does not."""
        try:
            async with asyncio.timeout(within_s):
                while await self.reader.read(65536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    async def ask(self, path: str = "/healthz", **headers: str) -> bytes:
        """Send a request and return the first line of the answer."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode())
        async with asyncio.timeout(10):
            return await self.reader.readline()

    async def open_page(self) -> bytes:
        """Ask for the socket of a page; return the first line of the answer."""
        return await self.ask(
            "/_nicegui_ws/socket.io/?EIO=4&transport=websocket",
            Upgrade="websocket",
            Connection="Upgrade",
            Sec_WebSocket_Key=base64.b64encode(bytes(16)).decode(),
            Sec_WebSocket_Version="13",
        )


@asynccontextmanager
async def guest(port: int) -> AsyncIterator[Guest]:
    """Connect."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Guest(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def served(bench: HmiBench, certificates: Path | None = None) -> AsyncIterator[int]:
    """Serve `bench`, with TLS where there are certificates, and return its port."""
    tls: dict[str, Any] = {}
    if certificates is not None:
        tls = {"cert_file": certificates / "cangate.pem", "key_file": certificates / "cangate.key"}
    async with serving(bench.new_server(**tls)) as server:
        yield int(server.url.rpartition(":")[2])


async def answers(port: int, certificates: Path | None, paths: tuple[str, ...]) -> dict[str, int]:
    """Ask, over a new connection each."""
    scheme = "http" if certificates is None else "https"
    trusting = True if certificates is None else ssl.create_default_context(cafile=certificates / "ca.pem")
    found = {}
    for path in paths:
        async with httpx.AsyncClient(trust_env=False, verify=trusting, timeout=10) as client:
            found[path] = (await client.get(f"{scheme}://127.0.0.1:{port}{path}")).status_code
    return found


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
async def test_a_crowd_that_says_nothing_takes_nothing_away(
    bench: HmiBench, certificates: Path, tmp_path: Path, secured: bool
) -> None:
    """1,100 silent connections and 1,024 descriptors: probes and pages are answered, frames are read."""
    (tmp_path / "frame.png").write_bytes(b"pixels")
    folders = RootFolders([tmp_path])
    pki = certificates if secured else None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pipe = asyncio.subprocess.PIPE
    async with served(bench, pki) as port:
        crowd = await asyncio.create_subprocess_exec(sys.executable, "-c", CROWD, str(port), stdin=pipe, stdout=pipe)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        try:
            assert crowd.stdout is not None
            reading = asyncio.create_task(crowd.stdout.readline())
            while not reading.done():
                assert folders.read(tmp_path / "frame.png", max_bytes=10) == b"pixels"
                await asyncio.wait({reading}, timeout=0.05)
            assert reading.result() == b"all there\n"
            paths = (*PROBES, "/", "/api/status")
            assert await answers(port, pki, paths) == dict.fromkeys(paths, 200)
            assert folders.read(tmp_path / "frame.png", max_bytes=10) == b"pixels"
            assert len(os.listdir("/proc/self/fd")) < 600  # noqa: PTH208 - pathlib would be told to leave the loop
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            crowd.kill()
            await crowd.communicate()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nG",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n",
        b"POST /_nicegui_ws/socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"rubbish\r\n\r\n",
    ],
)
@pytest.mark.usefixtures("impatient")
async def test_who_does_not_ask_in_time_is_let_go(bench: HmiBench, said: bytes) -> None:
    """Nothing at all, half a request, half a second one, a body that does not come."""
    async with served(bench) as port, guest(port) as silent:
        silent.writer.write(said)
        assert await silent.is_let_go()


@pytest.mark.usefixtures("impatient")
async def test_who_drips_a_request_is_let_go(bench: HmiBench) -> None:
    """The time is for the whole request, not for each byte of it."""
    async with served(bench) as port, guest(port) as dripping:
        gone = asyncio.create_task(dripping.is_let_go())
        for byte in b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * 500:
            dripping.writer.write(bytes([byte]))
            await asyncio.wait({gone}, timeout=0.05)
            if gone.done():
                break
        assert gone.done()
        assert await gone


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
@pytest.mark.usefixtures("impatient")
async def test_who_does_not_finish_the_handshake_is_let_go(bench: HmiBench, certificates: Path, said: bytes) -> None:
    """It comes before the first request, and counts as part of it."""
    async with served(bench, certificates) as port, guest(port) as silent:
        silent.writer.write(said)
        assert await silent.is_let_go()
        assert await answers(port, certificates, PROBES) == dict.fromkeys(PROBES, 200)


@pytest.mark.usefixtures("impatient")
async def test_who_does_not_read_the_answer_is_let_go(bench: HmiBench) -> None:
    """Or his requests would be in work for ever."""
    for seq in range(1, 501):
        await bench.judge(make_verdict(seq))
    async with served(bench) as port, guest(port) as deaf:
        deaf.writer.write(b"GET /api/verdicts?limit=500 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

            async def is_let_go() -> bool:
                text = (await client.get("/metrics")).text
                return 'cangate_refused_total{reason="silent",transport="http"} 1.0' in text

            await eventually(is_let_go, every_s=0.05)


@pytest.mark.usefixtures("impatient")
async def test_an_open_page_may_stay(bench: HmiBench) -> None:
    """It is asked now and then whether it is still there, and need not ask itself."""
    async with served(bench) as port, guest(port) as page:
        assert b" 101 " in await page.open_page()
        assert not await page.is_let_go(within_s=1.5)


@pytest.mark.usefixtures("impatient")
async def test_an_answer_may_take_its_time(bench: HmiBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for the client."""
    released = asyncio.Event()

    async def slow_page(*_: object) -> list[bytes]:
        await released.wait()
        return []

    async with served(bench) as port, guest(port) as patient:
        monkeypatch.setattr(bench.journal, "page", slow_page)
        answer = asyncio.create_task(patient.ask("/api/verdicts"))
        await asyncio.wait({answer}, timeout=1.5)
        assert not answer.done()
        released.set()
        assert b" 200 " in await answer


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
@pytest.mark.usefixtures("small")
async def test_the_longest_silent_makes_room(bench: HmiBench, certificates: Path, secured: bool) -> None:
    """Who comes and asks is worth more than who came and did not."""
    pki = certificates if secured else None
    async with served(bench, pki) as port, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(guest(port)) for _ in range(3)]
        assert await answers(port, pki, ("/api/status",)) == {"/api/status": 200}
        assert await silent[0].is_let_go()
        assert not await silent[2].is_let_go(within_s=0.3)


@pytest.mark.usefixtures("small")
async def test_probes_are_answered_where_every_place_is_taken(bench: HmiBench) -> None:
    """By open pages, which nobody may push out; others are told to come again, until there is a place."""
    async with served(bench) as port, AsyncExitStack() as stack:
        pages = [await stack.enter_async_context(guest(port)) for _ in range(3)]
        assert [b" 101 " in await page.open_page() for page in pages] == [True] * 3
        for _ in range(5):
            assert await answers(port, None, PROBES) == dict.fromkeys(PROBES, 200)
        others = ("/", "/api/status", "/api/verdicts", "/favicon.ico")
        assert await answers(port, None, others) == dict.fromkeys(others, 503)
        async with guest(port) as fourth:
            assert b" 403 " in await fourth.open_page()
        crowd = [await stack.enter_async_context(guest(port)) for _ in range(10)]
        assert await answers(port, None, PROBES) == dict.fromkeys(PROBES, 200)
        assert await crowd[0].is_let_go()
        async with httpx.AsyncClient(trust_env=False) as client:
            refused = await client.get(f"http://127.0.0.1:{port}/api/status")
        assert refused.json() == {"detail": "too many connections; come again later"}
        assert refused.headers["x-frame-options"] == "DENY"
        for page in pages:
            page.writer.close()

        async def has_room() -> bool:
            return await answers(port, None, ("/api/status",)) == {"/api/status": 200}

        await eventually(has_room, every_s=0.05)


async def test_request_right_behind_the_handshake_is_answered(bench: HmiBench, certificates: Path) -> None:
    """Both may come in one packet."""
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context(cafile=certificates / "ca.pem")
    client = trusting.wrap_bio(came, goes, server_hostname="127.0.0.1")
    async with served(bench, certificates) as port, guest(port) as eager, asyncio.timeout(10):
        while True:
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                eager.writer.write(goes.read())
                came.write(await eager.reader.read(65536))
            else:
                break
        client.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        eager.writer.write(goes.read())
        answer = b""
        while not answer:
            try:
                answer = client.read()
            except ssl.SSLWantReadError:
                received = await eager.reader.read(65536)
                assert received, "the connection has ended"
                came.write(received)
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_server_stops_while_a_handshake_is_not_done(bench: HmiBench, certificates: Path) -> None:
    """It ends with the others."""
    async with served(bench, certificates) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")
        assert await answers(port, certificates, ("/healthz",)) == {"/healthz": 200}
    assert await Guest(reader, writer).is_let_go()
    writer.close()

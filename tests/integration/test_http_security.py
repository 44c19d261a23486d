"""Who may ask over HTTP: hosts, origins, users, TLS; and what no path leads to."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import argon2
import httpx
import pytest

from adapters.pki import PlantAuthority
from schemas.messages import Decision
from service.errors import UsageError
from tests.support.hmi import HmiBench, make_frame, make_verdict, serving

QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"anna:operator:{QUICK.hash('right')}\n")
    path.chmod(0o600)
    return path


@asynccontextmanager
async def served(
    bench: HmiBench, verify: ssl.SSLContext | bool = True, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve `bench` with `settings` and return a client of it."""
    server = bench.new_server(**settings)
    async with (
        serving(server),
        httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=10, verify=verify) as client,
    ):
        yield client


async def raw(client: httpx.AsyncClient, request: bytes) -> bytes:
    """Send bytes as they are, since clients tidy up paths and headers; return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read(65536)
    writer.close()
    return answer


def handshake(client: httpx.AsyncClient, **headers: str) -> bytes:
    """Return the request with which a browser opens the page's socket."""
    given = {
        "Host": f"127.0.0.1:{client.base_url.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        "Sec-WebSocket-Version": "13",
    } | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n{lines}\r\n".encode()


async def test_answers_carry_the_security_headers(bench: HmiBench) -> None:
    """Pages, data and errors alike."""
    async with served(bench) as client:
        for path in ("/", "/api/verdicts", "/api/nothing", "/healthz"):
            headers = (await client.get(path)).headers
            assert "default-src 'self'" in headers["content-security-policy"], path
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert "camera=()" in headers["permissions-policy"]
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers
        scripts = re.findall(r"/_nicegui/[^\"']+\.js", (await client.get("/")).text)
        assert scripts
        for path in scripts:
            assert "no-store" not in (await client.get(path)).headers.get("cache-control", "")


async def test_host_that_is_not_ours_is_answered_nothing(bench: HmiBench) -> None:
    """A page on the web that gives its name our address would be the same origin as we."""
    async with served(bench, hosts=("line1.plant.example",)) as client:
        answers = {}
        for host in (
            "127.0.0.1",
            "[::1]:80",
            "localhost",
            "cangate:8080",
            "LINE1.plant.example",
            "line1.plant.example.",
        ):
            answers[host] = (await client.get("/api/status", headers={"Host": host})).status_code
        assert answers == dict.fromkeys(answers, 200)
        for host in ("evil.example", "127.0.0.1.evil.example", "line1.plant.example.evil.example", "a.b:8080", "[x"):
            for path in ("/", "/api/verdicts", "/metrics", "/healthz"):
                answer = await client.get(path, headers={"Host": host})
                assert answer.status_code == 421, (host, path)
                assert "x-frame-options" in answer.headers
        assert b" 403 " in await raw(client, handshake(client, Host="evil.example"))


async def test_socket_is_opened_by_our_own_page_only(bench: HmiBench) -> None:
    """Browsers let any page ask, and say on whose behalf."""
    async with served(bench) as client:
        own = f"http://127.0.0.1:{client.base_url.port}"
        assert b" 101 " in await raw(client, handshake(client, Origin=own))
        for origin in ("http://evil.example", "null", f"{own}.evil.example", "http://127.0.0.1:1"):
            assert b" 403 " in await raw(client, handshake(client, Origin=origin)), origin
        polling = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
        assert (await client.post(polling, headers={"Origin": "http://evil.example"})).status_code == 403


async def test_page_and_data_want_a_password_where_that_is_asked_for(bench: HmiBench, users: Path) -> None:
    """Everything but the one probe that says nothing; a user who is gone is out at once."""
    await bench.judge(make_verdict(1, Decision.OK), make_frame())
    async with served(bench, anonymous=False, users_file=users) as client:
        paths = (
            "/",
            "/api/verdicts",
            "/api/verdicts/e1",
            "/api/verdicts/e1/image",
            "/picture?event=e1&overlay=boxes",
            "/api/status",
            "/readyz",
            "/metrics",
        )
        right, wrong = httpx.BasicAuth("anna", "right"), httpx.BasicAuth("anna", "wrong")
        for path in paths:
            refused = await client.get(path)
            assert refused.status_code == 401, path
            assert refused.headers["www-authenticate"].startswith("Basic ")
            assert "e1" not in refused.text
            assert (await client.get(path, auth=right)).status_code == 200, path
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/api/status", auth=wrong)).status_code == 401
        for header in ("Basic", "Basic ????", "Bearer x", "Basic " + base64.b64encode(b"\xff\xfe").decode()):
            assert (await client.get("/api/status", headers={"Authorization": header})).status_code == 401, header
        assert b" 403 " in await raw(client, handshake(client))
        login = "Basic " + base64.b64encode(b"anna:right").decode()
        assert b" 101 " in await raw(client, handshake(client, Authorization=login))
        await asyncio.to_thread(users.write_text, f"bert:operator:{QUICK.hash('right')}\n")
        assert (await client.get("/api/status", auth=right)).status_code == 401


async def test_page_is_served_over_tls(bench: HmiBench, users: Path, tmp_path: Path) -> None:
    """With a certificate of the plant, and to nobody who speaks plain HTTP."""
    pki = tmp_path / "pki"
    PlantAuthority.create(pki, name="plant", days=5).issue("cangate", hosts=["127.0.0.1"], uri="urn:cangate", days=5)
    tls = {"cert_file": pki / "cangate.pem", "key_file": pki / "cangate.key"}
    trusting = ssl.create_default_context(cafile=pki / "ca.pem")
    async with served(bench, trusting, anonymous=False, users_file=users, **tls) as client:
        assert client.base_url.scheme == "https"
        assert (await client.get("/api/status", auth=httpx.BasicAuth("anna", "right"))).status_code == 200
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(trust_env=False) as stranger:
                await stranger.get(str(client.base_url))
        with pytest.raises((httpx.TransportError, ConnectionError)):
            async with httpx.AsyncClient(trust_env=False) as plain:
                await plain.get(f"http://127.0.0.1:{client.base_url.port}/")


TRAVERSALS = [
    "/../../../../etc/passwd",
    "/..%2f..%2f..%2fetc%2fpasswd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd",
    "/_nicegui/../../../../etc/passwd",
    "/_nicegui/3.18.0/static/../../../../../../etc/passwd",
    "/_nicegui/3.18.0/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/_nicegui/3.18.0/static/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/_nicegui/3.18.0/libraries/../../../../../etc/passwd",
    "/_nicegui/3.18.0/components/%2fetc%2fpasswd",
    "/_nicegui/3.18.0/resources/x/../../../../../../etc/passwd",
    "/_nicegui/3.18.0/esm/x/..%2f..%2f..%2fetc%2fpasswd",
    "/_nicegui/3.18.0/dynamic_resources/..%2fetc%2fpasswd",
    "/_nicegui/auto/static/../../etc/passwd",
    "/api/verdicts/../../../../etc/passwd",
    "/api/verdicts/..%2f..%2f..%2fetc%2fpasswd/image",
    "/api/verdicts/%2fetc%2fpasswd/image",
    "/api/verdicts/..%00/image",
    "/picture?event=../../../etc/passwd&overlay=none",
    "/picture?event=..%00&overlay=none",
    "/favicon.ico/../../../etc/passwd",
    "/_nicegui/..\\..\\..\\etc\\passwd",
]


async def test_no_path_leads_out(bench: HmiBench) -> None:
    """Dots, encoded dots, encoded slashes, backslashes: nothing of this machine comes out, and no traceback."""
    async with served(bench) as client:
        for path in TRAVERSALS:
            host = f"127.0.0.1:{client.base_url.port}"
            answer = await raw(client, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            status = answer.split(b" ", 2)[1]
            assert status in (b"400", b"404", b"422"), (path, answer[:200])
            assert b"root:" not in answer
            assert b"Traceback" not in answer


async def test_rubbish_on_the_port_is_answered_or_dropped(bench: HmiBench) -> None:
    """Other protocols, headers without end; then a good request."""
    async with served(bench) as client:
        for rubbish in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nHost: y.z\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 100_000 + b"\r\n\r\n",
            b"POST /api/verdicts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        ):
            answer = await raw(client, rubbish)
            assert answer == b"" or answer.split(b" ", 2)[1] in (b"400", b"405", b"421", b"431"), (rubbish[:40], answer)
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"anonymous": False}, "nobody could log in"),
        ({"anonymous": False, "users_file": Path("missing")}, "http.users_file: cannot read missing"),
        ({"anonymous": True, "users_file": Path("missing")}, "http.users_file: cannot read missing"),
        ({"cert_file": Path("a.pem")}, "cert_file and key_file belong together"),
        ({"cert_file": Path("a.pem"), "key_file": Path("b.pem")}, r"http\.cert_file a\.pem with b\.pem: No such file"),
    ],
)
async def test_settings_that_cannot_be_used_are_refused_at_start(
    bench: HmiBench, settings: dict[str, Any], named: str
) -> None:
    """One line that names the key."""
    with pytest.raises(UsageError, match=named):
        await bench.new_server(**settings).open()

"""An HTTP host that misbehaves in every way that a path of it names."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_OK = b"HTTP/1.1 200 OK\r\n"
_BOMB = gzip.compress(bytes(10_000_000))
_LONG_S = 6.0
"""How long it drips: far beyond any deadline of a test."""


@contextmanager
def hostile_host(good: bytes) -> Iterator[str]:
    """Serve on loopback until the block ends; yields `host:port`. `/a.png` is answered with `good`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopped = threading.Event()
        threading.Thread(target=_accept, args=(listener, good, stopped), daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopped.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, good: bytes, stopped: threading.Event) -> None:
    with suppress(OSError):  # the listener is closed at the end
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_answer, args=(client, good, stopped), daemon=True).start()


def _answer(client: socket.socket, good: bytes, stopped: threading.Event) -> None:
    with client, suppress(OSError):  # the other side gives up on us, as it should
        request = client.recv(4096)
        path = request.split(b" ")[1].decode() if request.startswith(b"GET ") else ""
        whole = _OK + b"Content-Length: %d\r\n\r\n" % len(good) + good

        def drip(start: bytes, piece: bytes) -> None:
            client.sendall(start)
            give_up = time.monotonic() + _LONG_S
            while time.monotonic() < give_up and not stopped.wait(0.05):
                client.sendall(piece)

        def flood() -> None:
            client.sendall(_OK + b"Transfer-Encoding: chunked\r\n\r\n")
            while not stopped.is_set():
                client.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")

        ways: dict[str, Callable[[], object]] = {
            "/a.png": lambda: client.sendall(whole),
            "/redirect-inside": lambda: client.sendall(
                b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
            ),
            "/redirect-file": lambda: client.sendall(
                b"HTTP/1.1 307 T\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"
            ),
            "/404": lambda: client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
            "/204": lambda: client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n"),
            "/garbage": lambda: client.sendall(b"220 smtp ready\r\n" * 20),
            "/silent": lambda: stopped.wait(_LONG_S),
            "/slow-header": lambda: drip(_OK, b"X"),
            "/slow-body": lambda: drip(_OK + b"Content-Length: 100000\r\n\r\n", b"x"),
            "/announces": lambda: client.sendall(_OK + b"Content-Length: 1000000000000\r\n\r\n" + bytes(100)),
            "/endless": flood,
            "/half": lambda: client.sendall(whole[: len(whole) // 2]),
            "/gzip": lambda: client.sendall(
                _OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(_BOMB) + _BOMB
            ),
        }
        ways.get(path, lambda: None)()

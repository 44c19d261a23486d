"""What systemd is told, over a socket like its own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.systemd import SystemdWatchdog
from schemas.messages import Fault, FaultCode, StationState
from tests.support.mqtt import status


@pytest.fixture(params=["path", "abstract"])
def told(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], str]]:
    address = str(tmp_path / "notify") if request.param == "path" else f"\0{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        yield lambda: systemd.recv(4096).decode()


def test_systemd_hears_how_the_service_is(told: Callable[[], str]) -> None:
    """Ready, alive with its state where that is news, stopping."""
    watchdog = SystemdWatchdog()
    watchdog.started()
    assert told() == "READY=1"
    watchdog.alive(status())
    assert told() == "WATCHDOG=1\nSTATUS=ready"
    watchdog.alive(status())
    assert told() == "WATCHDOG=1"
    fault = Fault(code=FaultCode.SINK_DOWN, text="mqtt: connection refused")
    watchdog.alive(status(StationState.DEGRADED).model_copy(update={"fault": fault}))
    assert told() == "WATCHDOG=1\nSTATUS=degraded: mqtt: connection refused"
    watchdog.stopping()
    assert told() == "STOPPING=1"


def test_systemd_is_not_told_of_a_service_that_has_given_up(told: Callable[[], str]) -> None:
    """A process whose device is lost for good is to be replaced: it stops feeding the watchdog."""
    watchdog = SystemdWatchdog(given_up=lambda: True)
    watchdog.alive(status())
    watchdog.stopping()
    assert told() == "STOPPING=1"


def test_systemd_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Started by hand, or by a systemd that has gone: the service does not care."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    SystemdWatchdog().started()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    SystemdWatchdog().started()

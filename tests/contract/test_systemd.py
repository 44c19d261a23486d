"""What systemd is told, over a socket like its own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.systemd import Systemd
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
    watchdog = Systemd(["line1"]).watchdog("line1")
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
    watchdog = Systemd(["line1"]).watchdog("line1", given_up=lambda: True)
    watchdog.alive(status())
    watchdog.stopping()
    assert told() == "STOPPING=1"


def test_systemd_hears_of_several_stations_what_holds_for_all(told: Callable[[], str]) -> None:
    """Ready with the last one, alive while each is: the one that hangs is not covered up by the others."""
    systemd = Systemd(["line1", "line2"])
    first, second = systemd.watchdog("line1"), systemd.watchdog("line2")
    first.started()
    first.alive(status())
    second.started()
    assert told() == "READY=1"
    first.alive(status())
    second.alive(status(StationState.DEGRADED))
    assert told() == "WATCHDOG=1\nSTATUS=line1 ready, line2 degraded"
    second.alive(status())
    second.alive(status())
    first.alive(status())
    assert told() == "WATCHDOG=1\nSTATUS=line1 ready, line2 ready"
    second.stopping()
    first.stopping()
    assert told() == "STOPPING=1"


def test_systemd_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Started by hand, or by a systemd that has gone: the service does not care."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Systemd(["line1"]).watchdog("line1").started()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Systemd(["line1"]).watchdog("line1").started()

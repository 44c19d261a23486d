"""Tells systemd how the process is (sd_notify(3)): ready, alive, stopping, and in one line what it does."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence

import structlog

from schemas.messages import Status

log = structlog.get_logger(__name__)


class Systemd:
    """The process as systemd sees it: ready when all of its stations are, alive while each of them is.

    Says nothing where the process was not started by systemd.

    Args:
        stations: ids of all stations of this process.
    """

    def __init__(self, stations: Sequence[str]) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._stations = tuple(stations)
        self._started: set[str] = set()
        self._alive: dict[str, str] = {}
        self._told = ""
        self._stopping = False

    def watchdog(self, station: str, given_up: Callable[[], bool] = lambda: False) -> StationWatchdog:
        """Return what one station tells.

        Args:
            station: its id.
            given_up: whether the process should be started anew although the station still decides: what it sees is
                no use any more.
        """
        return StationWatchdog(self, station, given_up)

    def started(self, station: str) -> None:
        """Note that a station is ready; with the last one the process is."""
        self._started.add(station)
        if self._started.issuperset(self._stations):
            self._tell("READY=1")

    def alive(self, station: str, state: str) -> None:
        """Note a beat of a station; once each has beaten, feed the watchdog and show how all of them are."""
        self._alive[station] = state
        if not self._alive.keys() >= set(self._stations):
            return
        one = len(self._stations) == 1
        text = ", ".join(self._alive[name] if one else f"{name} {self._alive[name]}" for name in self._stations)
        self._alive.clear()
        self._tell("WATCHDOG=1" if text == self._told else f"WATCHDOG=1\nSTATUS={text}")
        self._told = text

    def stopping(self) -> None:
        """Say, once, that the process ends because it was told to."""
        if not self._stopping:
            self._tell("STOPPING=1")
        self._stopping = True

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        # a leading @ stands for the zero byte of an abstract socket
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as notify:
                notify.sendto(message.encode(), address)
        except OSError as exc:
            log.warning("systemd_not_told", error=exc.strerror)


class StationWatchdog:
    """Fulfils Watchdog for one station of the process."""

    def __init__(self, systemd: Systemd, station: str, given_up: Callable[[], bool]) -> None:
        self._systemd = systemd
        self._station = station
        self._given_up = given_up

    def started(self) -> None:
        """Say that the station is ready."""
        self._systemd.started(self._station)

    def alive(self, status: Status) -> None:
        """Say that the station can decide, and how it is."""
        if not self._given_up():
            fault = "" if status.fault is None else f": {status.fault.text}"
            self._systemd.alive(self._station, f"{status.state.value}{fault}")

    def stopping(self) -> None:
        """Say that the station ends because it was told to."""
        self._systemd.stopping()

"""Tells systemd how the service is (sd_notify(3)): ready, alive, stopping, and in one line what it does."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import structlog

from schemas.messages import Status

log = structlog.get_logger(__name__)


class SystemdWatchdog:
    """Fulfils Watchdog; says nothing where the service was not started by systemd.

    Args:
        given_up: whether the service should be started anew although it still decides: what it sees is no use any more.
    """

    def __init__(self, given_up: Callable[[], bool] = lambda: False) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._given_up = given_up
        self._told = ""

    def started(self) -> None:
        """Say that the service is ready."""
        self._tell("READY=1")

    def alive(self, status: Status) -> None:
        """Feed the watchdog, and show the state in `systemctl status`."""
        if self._given_up():
            return
        text = status.state.value if status.fault is None else f"{status.state.value}: {status.fault.text}"
        self._tell("WATCHDOG=1" if text == self._told else f"WATCHDOG=1\nSTATUS={text}")
        self._told = text

    def stopping(self) -> None:
        """Say that the service ends because it was told to."""
        self._tell("STOPPING=1")

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

"""A secured plant as deploy/secure-plant.sh makes it: authority, users, mosquitto with TLS and access list."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters.simulation.broker import free_port
from tests.support.mqtt import mosquitto_or_skip
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
HOST = "localhost"


@dataclass(frozen=True, slots=True)
class SecuredPlant:
    """The folder that the script has filled."""

    folder: Path

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    def password(self, name: str) -> str:
        return (self.folder / "passwords" / name).read_text()

    def settings(self, port: int, **changes: Any) -> dict[str, Any]:
        """Return what the service's `[mqtt]` says, but for `changes`."""
        given = {
            "host": HOST,
            "port": port,
            "username": "cangate",
            "password_file": self.folder / "passwords" / "cangate",
            "tls": True,
            "ca_file": self.pki / "ca.pem",
            "cert_file": self.pki / "cangate.pem",
            "key_file": self.pki / "cangate.key",
        }
        return given | changes

    def as_user(self, name: str, port: int, **changes: str | None) -> list[str]:
        """Return the options with which mosquitto's own clients log in as `name`; None leaves one out."""
        given: dict[str, str | None] = {
            "-h": HOST,
            "-p": str(port),
            "-u": name,
            "-P": self.password(name),
            "--cafile": str(self.pki / "ca.pem"),
            "--cert": str(self.pki / f"{name}.pem"),
            "--key": str(self.pki / f"{name}.key"),
        }
        options = given | {key: value for key, value in changes.items() if key in given}
        return [part for option, value in options.items() if value is not None for part in (option, value)]

    def write_mosquitto_conf(self, port: int, **replaced: str) -> Path:
        """Write a copy of the configuration that listens on loopback; `replaced` gives settings other values."""
        lines = []
        for line in (self.folder / "mosquitto" / "mosquitto.conf").read_text().splitlines():
            key = line.split(" ", 1)[0]
            lines.append(f"{key} {replaced[key]}" if key in replaced else line)
        text = "\n".join(lines).replace("listener 8883", f"listener {port} 127.0.0.1")
        # a test that runs as root keeps its files from the user that mosquitto would become
        owner = "\nuser root\n" if os.geteuid() == 0 else "\n"
        path = self.folder / "mosquitto" / f"test-{port}.conf"
        path.write_text(text + owner)
        return path

    @asynccontextmanager
    async def broker(self, port: int = 0, **replaced: str) -> AsyncIterator[int]:
        """Run mosquitto with the plant's configuration; yields its port."""
        port = port or free_port()
        config = self.write_mosquitto_conf(port, **replaced)
        process = await asyncio.create_subprocess_exec(
            mosquitto_or_skip(), "-c", config, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await eventually(lambda: _listens(port) or process.returncode is not None)
            assert process.returncode is None, f"mosquitto did not start with {config}"
            yield port
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def make_plant(folder: Path) -> SecuredPlant:
    """Run the script as an administrator would."""
    mosquitto_or_skip()
    command = Path(sys.executable).with_name("cangate")
    done = subprocess.run(
        [ROOT / "deploy" / "secure-plant.sh", folder, HOST],
        env={**os.environ, "CANGATE": str(command)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return SecuredPlant(folder)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def mosquitto_client(tool: str, *options: str) -> tuple[int, str]:
    """Run mosquitto_pub or mosquitto_sub to its end; return its exit status and what it said."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    process = await asyncio.create_subprocess_exec(
        found, *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")

"""The client adapter against node-opcua's server: a PLC that shares no code with the service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from adapters.opcua.client import OpcUaClientAdapter
from adapters.opcua.client.diagnosis import Diagnosis, PlcFault
from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import node_addresses
from schemas.messages import Decision
from tests.support.fakes import RecordingIntake
from tests.support.opcua import plain_client
from tests.support.plc import Judge, plc_client, serving
from tests.support.waiting import eventually

SCRIPTS = Path(__file__).parent / "node"
NODE = shutil.which("node")
pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (SCRIPTS / "node_modules" / "node-opcua-server").is_dir(),
        reason="node-opcua-server is not installed: npm install --prefix tests/contract/node",
    ),
]
MAPPING = node_addresses("line1")


class NodePlc:
    """A running plc.js."""

    def __init__(self, process: asyncio.subprocess.Process, endpoint: str) -> None:
        self.mapping = MAPPING | {"endpoint": endpoint}
        self._process = process

    def tell(self, op: str, **arguments: object) -> None:
        """Give a command, see plc.js."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")

    async def hear(self, key: str) -> Any:
        """Return the next `key` that the PLC prints."""
        assert self._process.stdout is not None
        while True:
            line = await asyncio.wait_for(self._process.stdout.readline(), 30)
            said = json.loads(line)
            if key in said:
                return said[key]


@contextlib.asynccontextmanager
async def node_plc(pki: Path, port: int | None = None, **options: object) -> AsyncIterator[NodePlc]:
    """Run plc.js; it is killed at the end."""
    assert NODE is not None
    script, text = str(SCRIPTS / "plc.js"), json.dumps(options)
    process = await asyncio.create_subprocess_exec(
        NODE,
        script,
        str(port or free_port()),
        str(pki),
        text,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        said = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        yield NodePlc(process, said["listening"])
    finally:
        process.kill()
        await process.wait()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the certificates of every server here: to make them takes a second."""
    return tmp_path_factory.mktemp("node-pki")


async def test_node_s_triggers_are_judged_before_and_after_it_was_killed(pki: Path) -> None:
    """None lost at 20 a second, each with its own part; the second life has other namespace indices and types."""
    port = free_port()
    decisions = [Decision.OK, Decision.DAMAGED, Decision.ERROR]
    adapter = plc_client({"endpoint": f"opc.tcp://127.0.0.1:{port}/plc", **MAPPING})
    judge = Judge(adapter, lambda arrival: decisions[(arrival.event.trigger_id or 0) % 3])
    lives: list[dict[str, object]] = [
        {},
        {
            "namespaces": ["urn:a", "urn:b"],
            "types": {"trigger": "Int16", "result_trigger_id": "Int32", "verdict": "Byte"},
        },
    ]
    async with serving(adapter, RecordingIntake(judge), connected=False):
        for life, options in enumerate(lives):
            async with node_plc(pki, port, **options) as plc:
                await eventually(lambda: adapter.fault is None)
                first = 100 * life + 1
                plc.tell("give", first=first, count=40, rate=20, images=["file:///1.png"])
                for trigger in range(first, first + 40):
                    decision = decisions[trigger % 3]
                    result = await plc.hear("result")
                    result.pop("after_ms")
                    assert result == {
                        "seq": judge.seq if trigger == first + 39 else result["seq"],
                        "trigger_id": trigger,
                        "part_id": f"C-{trigger}",
                        "verdict": {Decision.OK: 1, Decision.DAMAGED: 2, Decision.ERROR: 3}[decision],
                        "reject": decision is not Decision.OK,
                        "score": -1 if decision is Decision.ERROR else 0.5,
                    }
                # what was written but not yet confirmed would rightly be written again, into the second life
                await eventually(lambda: judge.confirmed)
            await eventually(lambda: adapter.fault is not None)
    assert judge.seq == 80


async def test_node_wants_a_policy_and_a_user(pki: Path, tmp_path: Path) -> None:
    """Encrypted under both policies with a user; what is refused has its name."""
    password = tmp_path / "password"
    password.write_text("secret\n")
    user: dict[str, object] = {"username": "cangate", "password_file": password}
    async with node_plc(pki, secure=True, user=["cangate", "secret"], readOnly=["heartbeat"]) as plc:
        whole = plc.mapping
        plc.mapping = whole | {"heartbeat": ""}
        for number, policy in enumerate(("Basic256Sha256", "Aes256Sha256RsaPss"), start=1):
            adapter = plc_client(plc.mapping | user | {"security": f"{policy}_SignAndEncrypt"}, pki=tmp_path)
            judge = Judge(adapter)
            judge.seq = number  # the service numbers on after a restart
            async with serving(adapter, RecordingIntake(judge)):
                plc.tell("trigger", trigger=number, part_id=policy)
                assert (await plc.hear("result"))["part_id"] == policy
        encrypted: dict[str, object] = {"security": "Basic256Sha256_SignAndEncrypt"}
        (tmp_path / "nobody").mkdir()
        wrong: list[tuple[dict[str, object], str]] = [
            ({}, "login_refused"),
            (encrypted, "login_refused"),
            (encrypted | {"username": "cangate", "password": "wrong"}, "login_refused"),
            ({"security": "Basic256Sha256_Sign"}, "security_refused"),
            (encrypted | user | {"trusted_certs": tmp_path / "nobody"}, "certificate_refused"),
            (encrypted | user | {"heartbeat": whole["heartbeat"]}, "access_denied: heartbeat"),
        ]
        for settings, expected in wrong:
            assert expected in await first_fault(plc_client(plc.mapping | settings, pki=tmp_path)), settings
    async with node_plc(pki, secure="only") as plc:
        assert "security_refused" in await first_fault(plc_client(plc.mapping))


async def test_node_is_believed_where_its_certificate_is_trusted(pki: Path, tmp_path: Path) -> None:
    """What the server shows is what lies in `trusted_certs`, so a verdict goes there; without it nothing is said."""
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    async with node_plc(pki, secure=True) as plc:
        login = {"security": "Basic256Sha256_SignAndEncrypt", "trusted_certs": trusted}
        assert "certificate_refused" in await first_fault(plc_client(plc.mapping | login, pki=tmp_path))
        offered = await plain_client(plc.mapping["endpoint"]).connect_and_get_server_endpoints()
        certificate = next(one.ServerCertificate for one in offered if one.ServerCertificate)
        (trusted / "plc.der").write_bytes(certificate)
        adapter = plc_client(plc.mapping | login, pki=tmp_path)
        async with serving(adapter, RecordingIntake(Judge(adapter))):
            plc.tell("trigger", trigger=1, part_id="C-1")
            assert (await plc.hear("result"))["part_id"] == "C-1"


@pytest.mark.parametrize("secure", [False, True])
async def test_node_with_one_place_gets_it_back_from_a_session_that_was_lost(
    pki: Path, tmp_path: Path, *, secure: bool
) -> None:
    """It would keep it for half a minute; who takes it back proves to be who made it."""
    login = {"security": "Basic256Sha256_SignAndEncrypt", "username": "cangate", "password": "secret"}
    options: dict[str, Any] = {"secure": True, "user": ["cangate", "secret"]} if secure else {}
    async with node_plc(pki, maxSessions=1, **options) as plc:
        adapter = plc_client(plc.mapping | (login if secure else {}), pki=tmp_path)
        with capture_logs() as logs:
            async with serving(adapter, RecordingIntake(Judge(adapter))):
                for trigger in (1, 2, 3):
                    plc.tell("trigger", trigger=trigger, part_id=f"C-{trigger}")
                    assert (await plc.hear("result"))["part_id"] == f"C-{trigger}"
                    assert adapter._connection is not None
                    adapter._connection.abort(Diagnosis(PlcFault.CONNECTION_LOST, "by the test"))
                    await eventually(lambda: adapter.fault is None)
    assert [entry["event"] for entry in logs].count("plc_session_given_back") == 3


async def first_fault(adapter: OpcUaClientAdapter) -> str:
    """Return why the first attempt to connect failed."""
    async with serving(adapter, connected=False):
        await eventually(lambda: adapter.fault != "not connected yet")
        return adapter.fault or "none"

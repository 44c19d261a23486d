"""MQTT over TLS with users, certificates and an access list, as deploy/ ships them; seen by mosquitto's own clients."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from adapters.mqtt import MqttAdapter
from adapters.pki import PlantAuthority
from adapters.simulation.broker import free_port
from schemas.messages import Gate
from service.errors import SinkUnavailable
from tests.support.fakes import RecordingCommands, RecordingIntake
from tests.support.mqtt import adapter_for, answer_to, private_mosquitto, running, status
from tests.support.plant import SecuredPlant, make_plant, mosquitto_client
from tests.support.waiting import eventually

pytestmark = pytest.mark.broker

EVENT = json.dumps({"event_id": "e1", "image": {"uri": "file:///frame.png"}})


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> SecuredPlant:
    return make_plant(tmp_path_factory.mktemp("secured") / "plant")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that nobody trusts, with a certificate for every name."""
    folder = tmp_path_factory.mktemp("strangers")
    authority = PlantAuthority.create(folder, name="somebody else", days=10)
    for name in ("broker", "cangate", "camera"):
        authority.issue(name, hosts=["localhost"], uri=f"urn:cangate:{name}", days=5)
    return folder


async def publish_as(plant: SecuredPlant, name: str, port: int, leaf: str, payload: str, **login: str | None) -> str:
    """Publish with mosquitto_pub; return "" where the broker took it, else what it said."""
    options = plant.as_user(name, port, **login)
    topic = f"cangate/line1/{leaf}"
    code, said = await mosquitto_client("mosquitto_pub", "-V", "5", *options, "-q", "1", "-t", topic, "-m", payload)
    # of an access list mosquitto_pub speaks in a warning only
    return "" if code == 0 and "failed" not in said.lower() else said


async def test_shipped_configuration_carries_an_event_and_its_answer(plant: SecuredPlant) -> None:
    """Camera, service, gate and engineer, each with certificate and password, each in its place."""
    async with plant.broker() as port:
        intake, commands = RecordingIntake(), RecordingCommands()
        async with running(adapter_for(**plant.settings(port)), intake, commands) as adapter:
            gate = asyncio.create_task(
                mosquitto_client(
                    "mosquitto_sub",
                    *plant.as_user("gate", port),
                    *("-t", "cangate/line1/gate", "-t", "cangate/line1/status", "-C", "2", "-W", "20"),
                )
            )
            assert await publish_as(plant, "camera", port, "image-ready", EVENT) == ""
            arrival = await intake.next()
            assert arrival.event.event_id == "e1"
            arrival.answered()
            await adapter.publish_status(status(), ready=True)
            seqs = itertools.count(1)

            async def heard_after_one_more() -> bool:  # the subscription may not be there yet
                seq = next(seqs)
                await adapter.publish(answer_to(f"e{seq}", seq=seq, gate=Gate.PASS))
                return gate.done()

            await eventually(heard_after_one_more, timeout_s=30, every_s=0.05)
            code, heard = gate.result()
            assert (code, '"gate":"PASS"' in heard) == (0, True), heard
            assert await publish_as(plant, "engineer", port, "cmd", '{"command":"ping"}') == ""
            await eventually(lambda: len(commands.taken) == 1)
            assert adapter.refused is None


async def test_shipped_access_list_lets_nobody_speak_for_another(plant: SecuredPlant) -> None:
    """Only the engineer commands, only the camera brings images, only the service decides."""
    async with plant.broker() as port:
        intake, commands = RecordingIntake(), RecordingCommands()
        async with running(adapter_for(**plant.settings(port)), intake, commands):
            attempts = [
                ("camera", "cmd", '{"command":"pause"}'),
                ("operator", "cmd", '{"command":"pause"}'),
                ("gate", "cmd", '{"command":"pause"}'),
                ("plc", "cmd", '{"command":"pause"}'),
                ("engineer", "image-ready", EVENT),
                ("gate", "image-ready", EVENT),
                ("operator", "image-ready/raw", "x"),
                ("camera", "verdict", "{}"),
                ("engineer", "gate", '{"gate":"PASS"}'),
                ("operator", "status", "{}"),
                ("tester", "cmd", '{"command":"pause"}'),
                ("tester", "gate", '{"gate":"PASS"}'),
                ("tester", "verdict", "{}"),
            ]
            for name, leaf, payload in attempts:
                said = await publish_as(plant, name, port, leaf, payload)
                assert "not authorized" in said.lower(), (name, leaf, said)
            assert await publish_as(plant, "engineer", port, "cmd", '{"command":"ping"}') == ""
            await eventually(lambda: len(commands.taken) == 1)
            assert [command.command for command in commands.taken] == ["ping"]
            assert intake.arrivals.empty()


async def test_shipped_configuration_refuses_whoever_is_not_of_the_plant(
    plant: SecuredPlant, strangers: Path, tmp_path: Path
) -> None:
    """Plain text, anonymous, wrong password, no certificate, a stranger's, a revoked one: nobody gets in."""
    authority = PlantAuthority.load(plant.pki)
    authority.issue("stolen", hosts=[], uri="urn:cangate:stolen", days=5)
    for suffix in (".pem", ".key"):
        (tmp_path / f"stolen{suffix}").write_bytes((plant.pki / f"stolen{suffix}").read_bytes())
    crl = authority.revoke("stolen")
    plain: dict[str, str | None] = {"--cafile": None, "--cert": None, "--key": None}
    stranger: dict[str, str | None] = {"--cert": str(strangers / "camera.pem"), "--key": str(strangers / "camera.key")}
    revoked: dict[str, str | None] = {"--cert": str(tmp_path / "stolen.pem"), "--key": str(tmp_path / "stolen.key")}
    attempts: dict[str, dict[str, str | None]] = {
        "plain text": plain,
        "anonymous": {"-u": None, "-P": None},
        "wrong password": {"-P": "wrong"},
        "password of another": {"-P": plant.password("engineer")},
        "no certificate": {"--cert": None, "--key": None},
        "certificate of a stranger": stranger,
        "revoked certificate": revoked,
        "broker that we do not trust": {"--cafile": str(strangers / "ca.pem")},
    }
    async with plant.broker(crlfile=str(crl)) as port:
        assert await publish_as(plant, "camera", port, "image-ready", EVENT) == ""
        for attempt, login in attempts.items():
            assert await publish_as(plant, "camera", port, "image-ready", EVENT, **login) != "", attempt


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"ca_file": "strangers/ca.pem"}, "the broker's certificate is from no authority that we trust (mqtt.ca_file)"),
        ({"host": "127.0.0.1"}, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
        ({"cert_file": None, "key_file": None}, "the broker refused our client certificate (mqtt.cert_file): "),
        (
            {"cert_file": "strangers/cangate.pem", "key_file": "strangers/cangate.key"},
            "the broker refused our client certificate (mqtt.cert_file): unknown ca",
        ),
        ({"password_file": None, "password": "wrong-secret"}, "Not authorized; look at mqtt.username and"),
        ({"username": "nobody"}, "Not authorized; look at mqtt.username and"),
        (
            {"tls": False, "ca_file": None, "cert_file": None, "key_file": None},
            "before the broker answered; does it want TLS (mqtt.tls)?",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_service_says_why_it_is_not_let_in(
    plant: SecuredPlant, strangers: Path, changes: dict[str, Any], fault: str
) -> None:
    """One clear line that names the setting, without the secret; and it goes on trying."""
    at_strangers = {
        key: strangers / value.partition("/")[2] if str(value).startswith("strangers/") else value
        for key, value in changes.items()
    }
    async with plant.broker() as port:
        adapter = adapter_for(**plant.settings(port, **at_strangers))
        async with running(adapter, RecordingIntake(), connected=False):
            await eventually(lambda: fault in str(adapter.fault))
            assert "\n" not in str(adapter.fault)
            assert "wrong-secret" not in str(adapter.fault)


@pytest.mark.parametrize(
    ("hosts", "days", "fault"),
    [
        (["localhost"], -1, "the broker's certificate has expired"),
        (["other.plant"], 5, "Hostname mismatch, certificate is not valid for 'localhost'"),
    ],
)
async def test_service_refuses_a_broker_whose_certificate_does_not_hold_and_takes_it_when_it_does(
    plant: SecuredPlant, hosts: list[str], days: int, fault: str
) -> None:
    """An expired one, one for another name; the fault ends with the certificate that caused it."""
    authority = PlantAuthority.load(plant.pki)
    certificate = authority.issue("bad-broker", hosts=hosts, uri="urn:cangate:broker", days=days)
    key = plant.pki / "bad-broker.key"
    port = free_port()
    try:
        async with plant.broker(port, certfile=str(certificate), keyfile=str(key)):
            adapter = adapter_for(**plant.settings(port))
            async with running(adapter, RecordingIntake(), connected=False):
                await eventually(lambda: fault in str(adapter.fault))
        async with plant.broker(port), running(adapter, RecordingIntake()):
            assert adapter.fault is None
    finally:
        authority.revoke("bad-broker")


async def test_publish_that_the_access_list_forbids_is_a_fault_in_words(plant: SecuredPlant, tmp_path: Path) -> None:
    """Not a silent retry; the list is mended, and all is well without a restart."""
    acl = tmp_path / "acl"
    whole = (plant.folder / "mosquitto" / "acl").read_text()
    acl.write_text(whole.replace("topic write cangate/+/gate\n", "", 1))
    async with plant.broker(acl_file=str(acl)) as port:
        async with running(adapter_for(**plant.settings(port)), RecordingIntake()) as adapter:
            await adapter.publish(answer_to("e1"))  # its verdict is out: repeating that would not mend the list
            assert adapter.refused == "gate is refused by the broker: Not authorized"
            assert adapter.fault is None  # the verdict goes out, and so does this
            await adapter.publish_status(status(), ready=True)
            assert adapter.refused is not None
        acl.write_text(whole.replace("topic write cangate/+/verdict\n", "", 1))
    async with plant.broker(acl_file=str(acl)) as port:
        async with running(adapter_for(**plant.settings(port)), RecordingIntake()) as adapter:
            with pytest.raises(SinkUnavailable, match="refused by the broker: Not authorized"):
                await adapter.publish(answer_to("e1"))
            assert adapter.refused == "verdict is refused by the broker: Not authorized"
        acl.write_text(whole)
    async with (
        plant.broker(acl_file=str(acl)) as port,
        running(adapter_for(**plant.settings(port)), RecordingIntake()) as adapter,
    ):
        await adapter.publish(answer_to("e1"))
        assert adapter.refused is None


async def test_service_that_takes_no_commands_takes_none() -> None:
    """Not even those that its kept session still brings."""
    async with private_mosquitto() as broker:
        commands, intake = RecordingCommands(), RecordingIntake()

        def adapter(**settings: Any) -> MqttAdapter:
            return adapter_for(broker.port, **settings)

        async with running(adapter(), intake, commands):
            pass
        topics = ("-p", str(broker.port), "-q", "1", "-t")
        await mosquitto_client("mosquitto_pub", *topics, "cangate/line1/cmd", "-m", '{"command":"pause"}')
        await mosquitto_client("mosquitto_pub", *topics, "cangate/line1/image-ready", "-m", EVENT)
        async with running(adapter(commands=False), intake, commands):
            assert (await intake.next()).event.event_id == "e1"
            await mosquitto_client("mosquitto_pub", *topics, "cangate/line1/cmd", "-m", '{"command":"pause"}')
            await mosquitto_client(
                "mosquitto_pub", *topics, "cangate/line1/image-ready", "-m", EVENT.replace("e1", "e2")
            )
            assert (await intake.next()).event.event_id == "e2"
            assert commands.taken == []

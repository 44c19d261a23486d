"""The ten-minute path of docs/security.md as a whole, and what its service prints: no secret, whoever fails at it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from asyncua import ua
from asyncua.crypto import security_policies as policies
from asyncua.crypto.uacrypto import CertProperties

from adapters.recordings.reader import Session
from adapters.simulation.broker import free_port
from schemas.messages import Decision
from tests.support.opcua import plain_client
from tests.support.plant import HOST, ROOT, SecuredPlant, make_plant, mosquitto_client
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.broker]

GUESS = "guess-Tr0ub4dor"


@asynccontextmanager
async def service(plant: SecuredPlant, broker_port: int) -> AsyncIterator[tuple[str, int, Path]]:
    """Run `cangate run` with the configuration that the script wrote, and with a page that asks for a password."""
    http_port, opcua_port = free_port(), free_port()
    text = (plant.folder / "config.toml").read_text()
    text = text.replace("port = 8883", f"port = {broker_port}").replace(
        'host = "0.0.0.0"', f'host = "127.0.0.1"\nport = {opcua_port}'
    )
    text += f"""
store = "{plant.folder}/images"
[http]
port = {http_port}
anonymous = false
users_file = "{plant.folder}/opcua/users.txt"
cert_file = "{plant.pki}/cangate.pem"
key_file = "{plant.pki}/cangate.key"
[journal]
url = "sqlite:///{plant.folder}/journal.sqlite"
[log]
level = "debug"
"""
    config = plant.folder / "test.toml"
    config.write_text(text)
    said = plant.folder / "service.log"
    with said.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service.cli", "run", "-c", str(config)), stdout=log, stderr=log
        )
    url = f"https://{HOST}:{http_port}"
    try:
        trusting = ssl.create_default_context(cafile=plant.pki / "ca.pem")
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as http:

            async def lives() -> bool:
                assert process.returncode is None, said.read_text()
                try:
                    return (await http.get(f"{url}/healthz")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(lives, timeout_s=60, every_s=0.1)
        yield url, opcua_port, said
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def opcua_login(plant: SecuredPlant, port: int, name: str, password: str) -> object:
    """Log in with the certificate of `name` and read a tag."""
    client = plain_client(f"opc.tcp://127.0.0.1:{port}/cangate/")
    client.application_uri = f"urn:cangate:{name}"
    client.set_user(name)
    client.set_password(password)
    await client.set_security(
        policies.SecurityPolicyAes128Sha256RsaOaep,
        str(plant.pki / f"{name}.pem"),
        CertProperties(plant.pki / f"{name}.key", extension="pem"),
        server_certificate=str(plant.pki / "cangate.pem"),
    )
    async with client:
        namespace = await client.get_namespace_index("urn:cangate")
        return await client.get_node(f"ns={namespace};s=line1.Reject").read_value()


async def test_secured_plant_works_and_prints_no_secret(tmp_path: Path) -> None:
    """One event on every way out; then everybody fails to log in; nothing that is printed holds a password or a key."""
    plant = await asyncio.to_thread(make_plant, tmp_path / "plant")
    async with plant.broker() as broker_port, service(plant, broker_port) as (url, opcua_port, said):
        trusting = ssl.create_default_context(cafile=plant.pki / "ca.pem")
        engineer = httpx.BasicAuth("engineer", plant.password("engineer"))
        async with httpx.AsyncClient(base_url=url, verify=trusting, trust_env=False, timeout=20) as http:

            async def answer(path: str, until: Callable[[httpx.Response], bool]) -> None:
                async def answered() -> bool:
                    return until(await http.get(path, auth=engineer))

                await eventually(answered, timeout_s=60, every_s=0.05)

            # there is no model: not ready for that reason alone
            await answer("/readyz", lambda got: [why.partition(":")[0] for why in got.json()["reasons"]] == ["model"])

            event = json.dumps({"event_id": "e1", "image": {"uri": "file:///etc/passwd"}})
            pub = ("mosquitto_pub", *plant.as_user("camera", broker_port), "-q", "1", "-t", "cangate/line1/image-ready")
            assert (await mosquitto_client(*pub, "-m", event))[0] == 0
            await answer("/api/verdicts/e1", lambda got: got.status_code == 200)
            assert await opcua_login(plant, opcua_port, "plc", plant.password("plc")) is True

            assert (await http.get("/", auth=httpx.BasicAuth("engineer", GUESS))).status_code == 401
            assert (await http.get("/", auth=httpx.BasicAuth(GUESS, GUESS))).status_code == 401
            with pytest.raises((ua.UaError, ConnectionError, TimeoutError)):
                await opcua_login(plant, opcua_port, "plc", GUESS)
            shown = "".join(
                [(await http.get(path, auth=engineer)).text for path in ("/metrics", "/api/status", "/readyz")]
            )
        printed = said.read_text(errors="replace") + shown
    printed += said.read_text(errors="replace")
    environment = {**os.environ, "CANGATE_MQTT__PASSWORD": GUESS, "PYTHONPATH": str(ROOT)}
    for arguments in (["config", "show", "-c", plant.folder / "test.toml"], ["certs", "list", plant.pki]):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "service.cli", *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        printed += done.stdout + done.stderr
    names = ("cangate", "camera", "gate", "plc", "operator", "engineer", "tester")
    secrets = [GUESS, "PRIVATE KEY", "argon2id", *map(plant.password, names)]
    secrets += [key.read_text().splitlines()[1] for key in plant.pki.glob("*.key")]
    assert [secret for secret in secrets if secret in printed] == []
    assert "Traceback" not in printed
    assert re.search(r"login_refused.*user.*plc", printed)


async def test_tester_records_a_secured_plant(tmp_path: Path) -> None:
    """Events and their verdicts, with the service's configuration and the login that the script made for it."""
    plant = await asyncio.to_thread(make_plant, tmp_path / "plant")
    tester = dict(line.split("=", 1) for line in (plant.folder / "tester.env").read_text().splitlines())
    async with plant.broker() as broker_port, service(plant, broker_port):
        recording = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service.cli", "record", "-c", str(plant.folder / "test.toml"), "--parts", "1"),
            *("-o", str(tmp_path / "recordings")),
            env={**os.environ, **tester, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert recording.stdout is not None
        async with asyncio.timeout(120):
            while b"recording line1" not in (line := await recording.stdout.readline()):
                assert line, "it ended before it began"
            event = json.dumps({"event_id": "e1", "image": {"uri": "file:///etc/passwd"}})
            pub = ("mosquitto_pub", *plant.as_user("camera", broker_port), "-q", "1", "-t", "cangate/line1/image-ready")
            assert (await mosquitto_client(*pub, "-m", event))[0] == 0
            assert await recording.wait() == 0
    (folder,) = (tmp_path / "recordings").iterdir()
    (part,) = Session.open(folder).parts()
    assert part.verdict is not None
    assert (part.event.event_id, part.verdict.decision) == ("e1", Decision.ERROR)


@pytest.mark.parametrize("name", ["R&D", "pl ant|x", "back\\slash", "quo'te", "wärme", ""])
def test_plant_in_a_folder_that_cannot_be_written_down_is_refused(tmp_path: Path, name: str) -> None:
    """Its path goes into files that each have special characters of their own: one line, and nothing is made."""
    done = subprocess.run(
        [ROOT / "deploy" / "secure-plant.sh", name, HOST], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"unusable folder '{tmp_path}/{name}'" in line
    assert list(tmp_path.iterdir()) == []


def test_plant_is_completed_where_a_file_was_left_empty(tmp_path: Path) -> None:
    """By a disk that was full, say; what is complete stays as it is."""
    plant = make_plant(tmp_path / "plant")
    files = [plant.folder / name for name in ("mosquitto/mosquitto.conf", "mosquitto/acl", "config.toml", "tester.env")]
    before = [file.read_text() for file in files]
    password = plant.password("camera")
    for file in files:
        file.write_text("")
    make_plant(plant.folder)
    assert [file.read_text() for file in files] == before
    assert all(before)
    assert plant.password("camera") == password
    assert list(plant.folder.rglob("*.new")) == []

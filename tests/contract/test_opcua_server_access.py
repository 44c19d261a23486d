"""Strangers at the OPC UA port: node-opcua without the right, certificates that are revoked, bytes that are none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua
from asyncua.common.utils import ServiceError
from asyncua.crypto import security_policies as policies
from asyncua.crypto import uacrypto
from asyncua.server.internal_session import InternalSession
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.accounts import Role
from adapters.opcua.server.adapter import OpcUaServerAdapter
from adapters.opcua.server.sessions import StationInternalServer
from adapters.opcua.server.users import StationUsers
from adapters.opcua.trust import REJECTED
from adapters.pki import PlantAuthority
from adapters.simulation.broker import free_port
from schemas.settings import OpcUaServerSettings
from schemas.tags import NAMESPACE_URI, Tag
from tests.contract.test_opcua_server_security import users_file
from tests.support.node import needs_node, node
from tests.support.opcua import plain_client, running, tag_node

SECURED = tuple(
    f"{policy}_SignAndEncrypt" for policy in ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
)
NODE_POLICIES = ("Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss")


def needs_node_opcua(test: Any) -> Any:
    """Mark a test that asks node-opcua."""
    for mark in needs_node("node-opcua-client"):
        test = mark(test)
    return test


def secured(folder: Path, **changes: Any) -> OpcUaServerSettings:
    """Return the settings of a server with every policy, users and an empty trust store."""
    (folder / "trusted").mkdir(exist_ok=True)
    return OpcUaServerSettings(
        port=free_port(),
        security=SECURED,
        anonymous=False,
        users_file=users_file(folder),
        trusted_certs=folder / "trusted",
        **changes,
    )


@needs_node_opcua
async def test_node_is_refused_without_the_right_and_let_in_with_it(tmp_path: Path) -> None:
    """Untrusted, plain text, anonymous, wrong password: refused. Trusted, with a password: by role, on each policy."""
    refused = [
        ("None", "None"),
        ("None", "None", "plc", "plc-secret"),
        ("Basic256Sha256", "SignAndEncrypt"),
        ("Basic256Sha256", "Sign", "plc", "plc-secret"),
        ("Basic256Sha256", "SignAndEncrypt", "plc", "wrong"),
        ("Basic256Sha256", "SignAndEncrypt", "nobody", "plc-secret"),
    ]
    taken = [
        (policy, "SignAndEncrypt", role, f"{role}-secret") for policy, role in zip(NODE_POLICIES, Role, strict=True)
    ]
    async with running(secured(tmp_path), tmp_path / "pki") as (adapter, _):

        async def login(*attempts: tuple[str, ...]) -> Any:
            return await node("login.js", adapter.endpoint, str(tmp_path / "node-pki"), json.dumps(attempts))

        assert [set(seen) for seen in await login(*taken)] == [{"error"}] * 3  # not one certificate is trusted yet
        (kept,) = (tmp_path / "trusted" / REJECTED).iterdir()
        kept.rename(tmp_path / "trusted" / kept.name)  # what an administrator does, without a restart
        seen = await login(*refused, *taken)
    assert [set(one) for one in seen[:6]] == [{"error"}] * 6, seen
    wrote = {Role.OPERATOR: "BadUserAccessDenied", Role.PLC: "Good", Role.ENGINEER: "Good"}
    assert seen[6:] == [{"verdict": 0, "write": wrote[role]} for role in Role]


async def client_of(adapter: OpcUaServerAdapter, server_certificate: Path, pki: Path, name: str) -> Client:
    """Return a client with a certificate of the plant, not yet connected."""
    client = plain_client(adapter.endpoint)
    client.application_uri = f"urn:cangate:{name}"
    client.set_user("plc")
    client.set_password("plc-secret")
    await client.set_security(
        policies.SecurityPolicyAes256Sha256RsaPss,
        str(pki / f"{name}.pem"),
        uacrypto.CertProperties(pki / f"{name}.key", extension="pem"),
        server_certificate=str(server_certificate),
    )
    return client


async def test_plant_certificates_are_trusted_until_they_are_revoked(tmp_path: Path) -> None:
    """What `cangate certs` makes fits server and client; a revocation counts at the next connection."""
    pki = tmp_path / "pki"
    authority = PlantAuthority.create(pki, name="plant", days=50)
    authority.issue("cangate", hosts=["127.0.0.1"], uri=NAMESPACE_URI, days=5)
    authority.issue("plc", hosts=[], uri="urn:cangate:plc", days=5)
    own = {"cert_file": pki / "cangate.pem", "key_file": pki / "cangate.key"}
    settings = secured(tmp_path, **own)
    for name in ("ca.pem", "crl.pem"):
        shutil.copy(pki / name, tmp_path / "trusted")
    async with running(settings, tmp_path) as (adapter, _):
        async with await client_of(adapter, pki / "cangate.pem", pki, "plc") as client:
            namespace = await client.get_namespace_index(NAMESPACE_URI)
            assert await tag_node(client, namespace, Tag.Verdict).read_value() == 0
        stolen = tmp_path / "stolen"
        stolen.mkdir()
        for name in ("plc.pem", "plc.key"):
            shutil.copy(pki / name, stolen)
        shutil.copy(authority.revoke("plc"), tmp_path / "trusted")
        revoked = await client_of(adapter, pki / "cangate.pem", stolen, "plc")
        with pytest.raises(ua.UaStatusCodeError) as refusal:
            await revoked.connect()
        assert ua.StatusCodes.BadCertificateRevoked == refusal.value.code


async def test_password_cannot_be_played_again(tmp_path: Path) -> None:
    """An encrypted password holds the server's nonce of that moment; asyncua does not look at it."""
    pki = tmp_path / "pki"
    PlantAuthority.create(pki, name="plant", days=50).issue("cangate", hosts=[], uri=NAMESPACE_URI, days=5)
    users = StationUsers(None, anonymous=False, plain=False, trusted=None)
    server = StationInternalServer(user_manager=users)
    server.private_key = await uacrypto.load_private_key(pki / "cangate.key", extension="pem")
    public = (await uacrypto.load_certificate(pki / "cangate.pem")).public_key()
    session = InternalSession.__new__(InternalSession)

    def token(nonce: bytes, algorithm: str = "http://www.w3.org/2001/04/xmlenc#rsa-oaep") -> ua.UserNameIdentityToken:
        secret = struct.pack("<I", len(b"secret") + len(nonce)) + b"secret" + nonce
        encrypted = ua.ByteString(uacrypto.encrypt_rsa_oaep(public, secret))  # type: ignore[no-untyped-call] # theirs
        return ua.UserNameIdentityToken(
            UserName=ua.String("plc"), Password=encrypted, EncryptionAlgorithm=ua.String(algorithm)
        )

    session.nonce = b"n" * 32
    assert server.decrypt_user_token(session, token(b"n" * 32)) == ("plc", "secret")
    for unusable in (token(b"o" * 32), token(b""), token(b"n" * 31)):
        with pytest.raises(ValueError, match="another session"):
            server.decrypt_user_token(session, unusable)
    with pytest.raises(ValueError, match="not offered"):
        server.decrypt_user_token(session, token(b"n" * 32, "http://www.w3.org/2001/04/xmlenc#rsa-1_5"))
    with pytest.raises(ServiceError):
        server.register_server(object())


HELLO = b"HELF" + struct.pack("<IIIIIIi", 32, 0, 65535, 65535, 0, 0, -1)


def rubbish() -> list[bytes]:
    """Return what strangers send: other protocols, sizes that lie, chunks of nonsense."""
    return [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00",
        bytes(1000),
        b"MSGF" + struct.pack("<I", 0),
        b"MSGF" + struct.pack("<I", 0xFFFFFFFF) + bytes(100),
        b"OPNF" + struct.pack("<I", 8),
        b"HELF" + struct.pack("<I", 12) + bytes(4),
        HELLO + b"OPNF" + struct.pack("<I", 40) + bytes(32),
        HELLO + b"MSGF" + struct.pack("<I", 40) + bytes(32),
        HELLO + b"CLOF" + struct.pack("<I", 20) + bytes(12),
        HELLO + b"OPNF" + struct.pack("<II", 100, 1) + b"\xff" * 88,
        HELLO + b"MSGC" + struct.pack("<I", 60_000) + bytes(60_000 - 8),
        HELLO * 50,
    ]


async def test_rubbish_ends_its_own_connection_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No traceback in the log, no memory taken for what is announced, and the PLC beside it is served."""
    async with running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, _):
        port = adapter._settings.port

        async def send(data: bytes) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                writer.write_eof()
                async with asyncio.timeout(10):
                    while await reader.read(65536):
                        pass
            writer.close()

        for data in rubbish():
            await send(data)

        loop = asyncio.get_running_loop()

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            st.sampled_from([b"", HELLO]),
            st.sampled_from([b"OPNF", b"MSGF", b"CLOF", b"HELF"]),
            st.binary(max_size=200),
        )
        def fuzz(start: bytes, kind: bytes, body: bytes) -> None:
            data = start + kind + struct.pack("<I", 8 + len(body)) + body
            asyncio.run_coroutine_threadsafe(send(data), loop).result(20)

        await asyncio.to_thread(fuzz)

        async with plain_client(adapter.endpoint) as client:
            namespace = await client.get_namespace_index(NAMESPACE_URI)
            assert await tag_node(client, namespace, Tag.Verdict).read_value() == 0
    tracebacks = [record for record in caplog.records if record.exc_info and record.levelno > logging.DEBUG]
    assert [record.getMessage() for record in tracebacks] == []


async def test_chunk_that_announces_gigabytes_is_not_waited_for(tmp_path: Path) -> None:
    """The connection ends at the header."""
    async with running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", adapter._settings.port)
        writer.write(b"HELF" + struct.pack("<I", 0x7FFFFFFF))
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()

"""Who gets in, who may write: users, policies and certificates of the OPC UA server."""

from __future__ import annotations

import re
import shutil
import stat
from pathlib import Path

import argon2
import pytest
from asyncua import Client, Node, ua
from asyncua.client.client import UaClientState
from asyncua.common.utils import ServiceError
from asyncua.crypto import cert_gen
from asyncua.crypto import security_policies as policies
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.accounts import Role, read_users
from adapters.clock import SystemClock
from adapters.opcua.server.adapter import OpcUaServerAdapter
from adapters.opcua.server.security import ServerSecurity, security_policies
from adapters.pki import PlantAuthority
from adapters.simulation.broker import free_port
from schemas.settings import OpcUaServerSettings
from schemas.tags import NAMESPACE_URI, Tag
from service.errors import UsageError
from tests.support.opcua import plain_client, running, tag_node
from tests.support.waiting import eventually

ENCRYPTED = "Basic256Sha256_SignAndEncrypt"
QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
REFUSED = (ua.UaError, ConnectionError, TimeoutError)


def users_file(folder: Path) -> Path:
    path = folder / "users"
    lines = [f"{role}:{role}:{QUICK.hash(f'{role}-secret')}" for role in Role]
    path.write_text("\n".join(["# name:role:argon2-hash", "", *lines]), encoding="utf-8")
    return path


def secure_settings(folder: Path, trusted: Path | None = None) -> OpcUaServerSettings:
    return OpcUaServerSettings(
        port=free_port(), security=(ENCRYPTED,), anonymous=False, users_file=users_file(folder), trusted_certs=trusted
    )


async def secure_client(endpoint: str, server_certificate: Path, own: Path, user: str, password: str) -> Client:
    """Return a client with a certificate of its own in the folder `own`, not yet connected."""
    client = plain_client(endpoint)
    client.set_user(user)
    client.set_password(password)
    certificate, key = await client.setup_self_signed_certificate(own / "key.pem", own / "certificate.der")
    await client.set_security(
        policies.SecurityPolicyBasic256Sha256, certificate, key, server_certificate=str(server_certificate)
    )
    return client


async def write_trigger(client: Client) -> str:
    namespace = await client.get_namespace_index(NAMESPACE_URI)
    one = ua.DataValue(ua.Variant(1, ua.VariantType.UInt32))
    (code,) = await client.uaclient.write_attributes([tag_node(client, namespace, Tag.Trigger).nodeid], [one])
    return code.name


async def access_levels(node: Node) -> list[set[ua.AccessLevel]]:
    """Return what may be done with a node at all, and by this user."""
    return [await node.get_access_level(), await node.get_user_access_level()]


async def assert_refused(client: Client) -> None:
    with pytest.raises(REFUSED):
        await client.connect()
    assert client.state is not UaClientState.CONNECTED


async def test_users_read_and_only_plc_and_engineer_write(tmp_path: Path) -> None:
    """A wrong password, an unknown name and no name at all are refused; an operator may look but not touch."""
    async with running(secure_settings(tmp_path), tmp_path / "pki") as (adapter, intake):
        server_certificate = tmp_path / "pki" / "opcua-server.der"
        for user, password in (("plc", "wrong"), ("plc", ""), ("nobody", "plc-secret")):
            await assert_refused(await secure_client(adapter.endpoint, server_certificate, tmp_path, user, password))
        anonymous = await secure_client(adapter.endpoint, server_certificate, tmp_path, "", "")
        anonymous._username = None
        await assert_refused(anonymous)

        wrote, shown = {}, {}
        for role in Role:
            client = await secure_client(adapter.endpoint, server_certificate, tmp_path, role, f"{role}-secret")
            async with client:
                namespace = await client.get_namespace_index(NAMESPACE_URI)
                assert await tag_node(client, namespace, Tag.Verdict).read_value() == 0
                wrote[role] = await write_trigger(client)
                node = tag_node(client, namespace, Tag.Trigger)
                shown[role] = [ua.AccessLevel.CurrentWrite in level for level in await access_levels(node)]
        assert shown == {Role.OPERATOR: [True, False], Role.PLC: [True, True], Role.ENGINEER: [True, True]}
        assert wrote == {Role.OPERATOR: "BadUserAccessDenied", Role.PLC: "Good", Role.ENGINEER: "Good"}
        assert (await intake.arrivals.get()).event.trigger_id == 1
        assert intake.arrivals.empty()  # the engineer wrote the same number again


async def test_unsecured_channel_gets_no_session_where_none_is_not_offered(tmp_path: Path) -> None:
    """The library opens such a channel for discovery whatever the policies; it must not become a session."""
    async with running(secure_settings(tmp_path), tmp_path / "pki") as (adapter, _):
        endpoints = await plain_client(adapter.endpoint).connect_and_get_server_endpoints()
        assert [endpoint.SecurityMode for endpoint in endpoints] == [ua.MessageSecurityMode.SignAndEncrypt]
        stranger = plain_client(adapter.endpoint)
        stranger.set_user("plc")
        stranger.set_password("plc-secret")
        params = ua.CreateSessionParameters()
        params.RequestedSessionTimeout = ua.Double(60_000)
        params.ClientNonce = ua.ByteString(b"0" * 32)
        await stranger.connect_sessionless()
        try:
            await stranger.uaclient.create_session(params)
            token = ua.UserNameIdentityToken(UserName=ua.String("plc"), Password=ua.ByteString(b"plc-secret"))
            activation = ua.ActivateSessionParameters(UserIdentityToken=token)
            with pytest.raises(ua.UaError):
                await stranger.uaclient.activate_session(activation)
        finally:
            await stranger.disconnect_sessionless()


async def test_client_whose_certificate_is_not_trusted_is_refused(tmp_path: Path) -> None:
    """With `trusted_certs` a right password is not enough, not even with a trusted certificate merely shown."""
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    friend, stranger = tmp_path / "friend", tmp_path / "stranger"
    settings = secure_settings(tmp_path, trusted)
    await plain_client("opc.tcp://127.0.0.1:1/").setup_self_signed_certificate(
        friend / "key.pem", friend / "certificate.der"
    )
    shutil.copy(friend / "certificate.der", trusted)
    async with running(settings, tmp_path / "pki") as (adapter, _):
        server_certificate = tmp_path / "pki" / "opcua-server.der"
        known = await secure_client(adapter.endpoint, server_certificate, friend, "plc", "plc-secret")
        async with known:
            assert await write_trigger(known) == "Good"
        await assert_refused(await secure_client(adapter.endpoint, server_certificate, stranger, "plc", "plc-secret"))

        impostor = await secure_client(adapter.endpoint, server_certificate, stranger, "plc", "plc-secret")
        genuine, shown = impostor.uaclient.create_session, (friend / "certificate.der").read_bytes()

        async def show_another(parameters: ua.CreateSessionParameters) -> ua.CreateSessionResult:
            parameters.ClientCertificate = ua.ByteString(shown)
            return await genuine(parameters)

        impostor.uaclient.create_session = show_another  # type: ignore[method-assign] # an attack, not a use
        await assert_refused(impostor)


@pytest.mark.parametrize("revoked", ["user", "password", "certificate"])
async def test_session_ends_when_what_let_it_in_is_revoked(tmp_path: Path, revoked: str) -> None:
    """A user who is gone or has another password, a certificate that is no longer trusted; nobody else is disturbed."""
    trusted, owners = tmp_path / "trusted", {"plc": tmp_path / "plc", "operator": tmp_path / "screen"}
    trusted.mkdir()
    for name, own in owners.items():
        await plain_client("opc.tcp://127.0.0.1:1/").setup_self_signed_certificate(
            own / "key.pem", own / "certificate.der"
        )
        shutil.copy(own / "certificate.der", trusted / f"{name}.der")
    settings = secure_settings(tmp_path, trusted)
    assert settings.users_file is not None
    async with running(settings, tmp_path / "pki") as (adapter, _):
        server = adapter._server
        assert server is not None
        plc, screen = [
            await secure_client(adapter.endpoint, tmp_path / "pki" / "opcua-server.der", own, name, f"{name}-secret")
            for name, own in owners.items()
        ]
        async with plc, screen:
            assert len(server.connections) == 2
            lines = settings.users_file.read_text().splitlines()
            if revoked == "certificate":
                (trusted / "plc.der").unlink()
            else:
                kept = [line for line in lines if not line.startswith("plc:")]
                more = [f"plc:plc:{QUICK.hash('another')}"] if revoked == "password" else []
                settings.users_file.write_text("\n".join(kept + more))
            await eventually(lambda: len(server.connections) == 1)
            with pytest.raises(REFUSED):
                await write_trigger(plc)
            assert await write_trigger(screen) == "BadUserAccessDenied"
            (left,) = server.iserver.sessions
            assert left.user.name == "operator"


async def test_session_tokens_cannot_be_guessed(tmp_path: Path) -> None:
    """The library counts its tokens, and attaches a channel to a living session before it looks at the password."""
    settings = OpcUaServerSettings(port=free_port(), anonymous=False, users_file=users_file(tmp_path))
    async with running(settings, tmp_path) as (adapter, _):
        tokens = []
        for _ in range(2):
            client = plain_client(adapter.endpoint)
            client.set_user("plc")
            client.set_password("plc-secret")
            async with client:
                tokens.append(client.uaclient.session.authentication_token.Identifier)
    assert [isinstance(token, bytes) and len(token) for token in tokens] == [32, 32]
    assert tokens[0] != tokens[1]


async def test_generated_certificate_is_kept_and_its_key_is_private(tmp_path: Path) -> None:
    """Clients that trusted the certificate once find it again after a restart."""
    seen = set()
    for _ in range(2):
        async with running(secure_settings(tmp_path), tmp_path / "pki"):
            seen.add((tmp_path / "pki" / "opcua-server.der").read_bytes())
    assert len(seen) == 1
    key = tmp_path / "pki" / "opcua-server-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize(
    ("purposes", "is_for_clients"),
    [
        ([ExtendedKeyUsageOID.SERVER_AUTH], False),
        ([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH], True),
        ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], True),
    ],
)
async def test_certificate_of_a_client_may_be_one(
    tmp_path: Path, purposes: list[x509.ObjectIdentifier], is_for_clients: bool, is_listed: bool
) -> None:
    """OPC 10000-4, 6.1.3: a server's, stolen, opens nothing by its authority's word; one put into the folder does."""
    PlantAuthority.create(tmp_path / "pki", name="plant", days=5)
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    shutil.copy(tmp_path / "pki" / "ca.pem", trusted)
    authority = x509.load_pem_x509_certificate((tmp_path / "pki" / "ca.pem").read_bytes())
    own_key = load_pem_private_key((tmp_path / "pki" / "ca.key").read_bytes(), password=None)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(NAMESPACE_URI)]
    request = cert_gen.generate_app_certificate_signing_request(
        cert_gen.generate_private_key(), "client", {}, names, purposes
    )
    assert isinstance(own_key, RSAPrivateKey)
    made = cert_gen.sign_certificate_request(request, authority, own_key, days=1)
    if is_listed:
        (trusted / "plc.der").write_bytes(made.public_bytes(Encoding.DER))
    security = ServerSecurity.load(secure_settings(tmp_path, trusted), tmp_path / "own")
    said = "Good"
    try:
        await security.validate_client(made, ua.ApplicationDescription(ApplicationUri=ua.String(NAMESPACE_URI)))
    except ServiceError as refusal:
        said = ua.StatusCode(ua.UInt32(refusal.code)).name
    assert said == ("Good" if is_for_clients or is_listed else "BadCertificateUseNotAllowed")


def test_security_policies_are_refused_by_name() -> None:
    """SHA-1 policies and misspelt ones are not offered, and neither is an empty list."""
    assert security_policies(["None", ENCRYPTED, "None"]) == [
        ua.SecurityPolicyType.NoSecurity,
        ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
    ]
    for names in (["Basic256_Sign"], ["basic256sha256"], []):
        with pytest.raises(UsageError, match=r"opcua\.server\.security"):
            security_policies(names)


@pytest.mark.parametrize(
    "line", ["plc", "plc:plc", "plc:plc:secret", "plc:root:{hash}", "plc:plc:$argon2id$v=19$m=x", "plc::{hash}"]
)
def test_users_file_with_an_unusable_line_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    """One clear line that names the file and the line; a password in the clear is no hash."""
    path = tmp_path / "users"
    path.write_text("\n" + line.format(hash=QUICK.hash("x")), encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(f"{path}, line 2: expected name:role:argon2-hash")):
        read_users(path)


def test_users_file_may_be_empty(tmp_path: Path) -> None:
    """Comments and empty lines name nobody."""
    path = tmp_path / "users"
    path.write_text("# nobody yet\n\n", encoding="utf-8")
    assert read_users(path) == {}


@pytest.mark.parametrize(
    ("unusable", "named"),
    [
        ({"anonymous": False}, "users_file"),
        ({"users_file": Path("missing")}, "missing"),
        ({"trusted_certs": Path("missing")}, "missing"),
        ({"security": (ENCRYPTED,), "cert_file": Path("missing.der")}, "belong together"),
        ({"security": (ENCRYPTED,), "cert_file": Path("a.der"), "key_file": Path("b.pem")}, r"a\.der"),
        ({"security": ("Nonsense",)}, "Nonsense"),
    ],
)
async def test_settings_that_cannot_be_used_are_refused_at_start(
    tmp_path: Path, unusable: dict[str, object], named: str
) -> None:
    """`cangate run` ends with one line that names what is wrong."""
    settings = OpcUaServerSettings.model_validate({"port": free_port(), **unusable})
    adapter = OpcUaServerAdapter(settings, station="line1", clock=SystemClock(), pki=tmp_path)
    with pytest.raises(UsageError, match=named):
        await adapter.open()

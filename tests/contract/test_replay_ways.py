"""Each way in plays the same parts and hears the same verdicts: a real broker and real OPC UA servers between them."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import argon2
import pytest
from pydantic import SecretStr

from adapters.clock import SystemClock
from adapters.mqtt import MqttAdapter
from adapters.opcua.client import OpcUaClientAdapter
from adapters.opcua.client.access import PlcAccess, read_access
from adapters.opcua.server.adapter import OpcUaServerAdapter
from adapters.replay import opcua_server
from adapters.replay.mqtt import MqttReplay
from adapters.replay.opcua_client import OpcUaClientReplay
from adapters.replay.opcua_server import OpcUaServerReplay
from adapters.simulation.broker import free_port
from adapters.simulation.plc import PlcGate
from schemas.messages import Decision, StationState, Status, Verdict
from schemas.settings import MqttSettings, OpcUaClientSettings, OpcUaLogin, OpcUaServerSettings
from schemas.tags import Tag
from service.errors import SinkUnavailable, UsageError
from service.ports import Adapter, Answer, Arrival, Asker, VerdictSink
from service.replay.parts import RecordedPart
from service.replay.player import Pace, Played, ReplayTarget, play
from tests.support.fakes import RecordingCommands
from tests.support.mqtt import private_mosquitto
from tests.support.opcua import plain_client, tag_node
from tests.support.opcua import running as served
from tests.support.recordings import recorded_part
from tests.support.waiting import eventually

STATION = "line1"
PLC = {
    word: f"nsu=urn:some-plc;s=Cell.{word}"
    for word in ("trigger", "part_id", "image_uri", "event_id", "verdict", "reject", "score", "result_seq")
}
SAID = {0: Decision.OK, 1: Decision.DAMAGED, 2: Decision.ERROR}


class StubStation:
    """A station with real adapters that says of each part what its number asks for; not for the gate.

    frames: what was found at the place that each event named, by part.
    """

    ready = True
    left_open = ()

    def __init__(self, sinks: list[VerdictSink]) -> None:
        self.sinks = sinks
        self.arrivals: list[Arrival] = []
        self.frames: dict[str, bytes] = {}
        self._publishing: set[asyncio.Task[None]] = set()

    def submit(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        task = asyncio.create_task(self._answer(arrival, len(self.arrivals)))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _answer(self, arrival: Arrival, seq: int) -> None:
        part_id = arrival.event.part_id or ""
        frame = arrival.frame_bytes or _read(arrival)
        if frame is not None:
            self.frames[part_id] = frame
        base = recorded_part(0).verdict
        assert base is not None
        decision = SAID[int(part_id[2:]) % 3]
        verdict: Verdict = base.model_copy(
            update={
                "event_id": arrival.event.event_id,
                "part_id": part_id,
                "trigger_id": arrival.event.trigger_id,
                "seq": seq,
                "decision": decision,
                "replayed": arrival.event.replayed,
                "score": int(part_id[2:]) / 7,
                "received_at": arrival.received_at,
            }
        )
        answer = Answer(verdict, verdict.to_json(), time.monotonic() + 10, Asker.of(arrival), for_gate=False)
        for sink in self.sinks:
            await sink.publish(answer)


def _read(arrival: Arrival) -> bytes | None:
    path = Path(arrival.image.uri.removeprefix("file://")) if arrival.image is not None else None
    return path.read_bytes() if path is not None and path.exists() else None


def _left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@asynccontextmanager
async def serving(station: StubStation, *adapters: Adapter) -> AsyncIterator[None]:
    """Run adapters for a station."""
    for adapter in adapters:
        await adapter.open()
    running = [asyncio.create_task(adapter.run(station, RecordingCommands())) for adapter in adapters]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        for adapter in adapters:
            await adapter.close()


def nobody_at(endpoint: str) -> PlcAccess:
    """Return how a client that says nothing of itself gets there."""
    return read_access(OpcUaLogin(), endpoint, station=STATION, pki=Path("unused"))


Way = Callable[[Path], AbstractAsyncContextManager[tuple[StubStation, AbstractAsyncContextManager[ReplayTarget]]]]


@asynccontextmanager
async def by_mqtt(root: Path) -> AsyncIterator[tuple[StubStation, AbstractAsyncContextManager[ReplayTarget]]]:
    async with private_mosquitto() as broker:
        settings = MqttSettings(port=broker.port)
        adapter = MqttAdapter(settings, station=STATION, clock=SystemClock(), max_raw_bytes=1 << 20)
        station = StubStation([adapter])
        async with serving(station, adapter):
            await eventually(lambda: adapter.fault is None)
            yield station, MqttReplay(settings, station=STATION, frames=root)


@asynccontextmanager
async def by_opcua_server(
    root: Path, settings: OpcUaServerSettings | None = None
) -> AsyncIterator[tuple[StubStation, AbstractAsyncContextManager[ReplayTarget]]]:
    settings = settings or OpcUaServerSettings(port=free_port())
    adapter = OpcUaServerAdapter(settings, station=STATION, clock=SystemClock(), pki=root / "pki")
    station = StubStation([adapter])
    async with serving(station, adapter):
        await asyncio.sleep(0)
        now = SystemClock().now()
        status = Status(station=STATION, state=StationState.READY, since=now, version="0", heartbeat=1)
        await adapter.publish_status(status, ready=True)
        yield station, OpcUaServerReplay(nobody_at(adapter.endpoint), station=STATION, frames=root)


@asynccontextmanager
async def by_opcua_client(root: Path) -> AsyncIterator[tuple[StubStation, AbstractAsyncContextManager[ReplayTarget]]]:
    async with private_mosquitto() as broker:
        mqtt = MqttSettings(port=broker.port)
        plc = OpcUaClientSettings.model_validate(
            PLC | {"endpoint": f"opc.tcp://127.0.0.1:{free_port()}", "request_timeout_ms": 5000, "reconnect_max_s": 0.2}
        )
        hears = MqttAdapter(mqtt, station=STATION, clock=SystemClock(), max_raw_bytes=1 << 20)
        adapter = OpcUaClientAdapter(plc, station=STATION, clock=SystemClock(), pki=root / "pki")
        station = StubStation([hears, adapter])
        async with serving(station, hears, adapter):
            await eventually(lambda: hears.fault is None)
            yield station, OpcUaClientReplay(plc, mqtt, station=STATION, frames=root)


WAYS: list[Way] = [by_mqtt, by_opcua_server, by_opcua_client]


def some_parts(count: int, *, spacing_s: float = 0.02) -> list[RecordedPart]:
    """Parts with frames; every fourth has none, and every other one was not inside its message."""
    parts = []
    for number in range(count):
        frame = None if number % 4 == 3 else b"\x89PNG" + bytes([number % 256]) * 2000
        part = recorded_part(number, frame=frame, spacing_s=spacing_s)
        parts.append(replace(part, event=part.event.model_copy(update={"inline": number % 2 == 0})))
    return parts


async def played(target: ReplayTarget, parts: list[RecordedPart], pace: Pace) -> list[Played]:
    async with asyncio.timeout(60):
        return [one async for one in play(iter(parts), target, pace, clock=SystemClock())]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("pace", [Pace(None, 1), Pace(2.0)], ids=["max", "twice"])
async def test_way_in_carries_frames_there_and_verdicts_back(way: Way, pace: Pace, tmp_path: Path) -> None:
    """Every part once, in order, marked, with its own frame and its own verdict; nothing is left lying about."""
    parts = some_parts(12)
    async with way(tmp_path) as (station, target):
        async with target as entered:
            result = await played(entered, parts, pace)
        assert [one.part.event.event_id for one in result] == [part.event.event_id for part in parts]
        for number, one in enumerate(result):
            assert one.verdict is not None
            assert (one.verdict.decision, one.verdict.score) == (SAID[number % 3], number / 7)
            assert one.verdict.replayed
            assert one.verdict.event_id.endswith(f"/{one.part.event.event_id}")
            assert (one.spacing_error_ms is None) is (pace.speed is None or number == 0)
        assert len(station.arrivals) == len(parts)
        assert station.frames == {part.event.part_id: part.frame for part in parts if part.frame is not None}
        assert all(arrival.event.replayed for arrival in station.arrivals)
    assert _left_in(tmp_path) <= {"pki"}


async def test_mqtt_repeats_what_the_event_said(tmp_path: Path) -> None:
    """Trigger, deadline and the time between capture and arrival as recorded, on a new day; at full speed a minute."""
    (part,) = some_parts(1)
    late = part.event.model_copy(
        update={"captured_at": part.event.captured_at and part.event.captured_at - timedelta(seconds=0.3)}
    )
    part = replace(part, event=late)
    async with by_mqtt(tmp_path) as (station, target), target as entered:
        await played(entered, [part], Pace(1.0))
        await played(entered, [part], Pace(None))
    paced, hurried = (arrival.event for arrival in station.arrivals)
    assert (paced.trigger_id, paced.deadline_ms, paced.replayed) == (1, 5000, True)
    assert paced.captured_at is not None
    age = station.arrivals[0].received_at - paced.captured_at
    assert timedelta(seconds=0.299) <= age <= timedelta(seconds=2)
    assert hurried.deadline_ms == 60_000
    assert paced.event_id != hurried.event_id


async def test_replay_ends_where_the_broker_goes_away(tmp_path: Path) -> None:
    """In an error that says so, not in silence."""
    async with private_mosquitto() as broker:
        settings = MqttSettings(port=broker.port)
        async with MqttReplay(settings, station=STATION, frames=tmp_path) as target:
            await broker.stop()
            with pytest.raises(SinkUnavailable):
                await played(target, some_parts(500, spacing_s=0.01), Pace(1.0))


async def test_replay_stops_where_somebody_else_triggers(tmp_path: Path) -> None:
    """Two that share one Trigger would mistake each other's parts."""
    async with by_opcua_server(tmp_path) as (station, target), target as entered:
        assert isinstance(entered, OpcUaServerReplay)
        await played(entered, some_parts(2), Pace(None, 1))
        async with plain_client(entered._access.endpoint) as other:
            namespace = await other.get_namespace_index("urn:cangate")
            trigger = tag_node(other, namespace, Tag.Trigger)
            await trigger.write_value(4711, (await trigger.read_data_type_as_variant_type()))
        with pytest.raises(SinkUnavailable, match="somebody else triggers"):
            await played(entered, some_parts(2), Pace(None, 1))
        assert len(station.arrivals) == 3


@pytest.mark.usefixtures("without_traceback")
async def test_replay_ends_where_the_station_s_server_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a part is out, and every place on the way is taken: it is not waited for until its deadline."""
    monkeypatch.setattr(opcua_server, "_AWAY_S", 0.1)
    settings = OpcUaServerSettings(port=free_port())
    async with AsyncExitStack() as stack, asyncio.timeout(40):
        async with served(settings, tmp_path) as (adapter, intake):
            target = OpcUaServerReplay(nobody_at(adapter.endpoint), station=STATION, frames=tmp_path)
            entered = await stack.enter_async_context(target)
            playing = asyncio.create_task(played(entered, some_parts(2), Pace(None, 1)))
            await intake.arrivals.get()
        with pytest.raises(SinkUnavailable, match=f"^{adapter.endpoint}: connection lost$"):
            await playing
        with pytest.raises(SinkUnavailable, match="connection lost"):
            await played(entered, some_parts(2), Pace(None, 1))


async def test_station_that_the_server_does_not_have_is_told_at_once(tmp_path: Path) -> None:
    """It is not said that the server does not answer."""
    async with served(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, _):
        target = OpcUaServerReplay(nobody_at(adapter.endpoint), station="line9", frames=tmp_path)
        with pytest.raises(SinkUnavailable, match=r"BadNodeIdUnknown"):
            await target.__aenter__()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_disk_that_refuses_a_frame_ends_the_replay(way: Way, tmp_path: Path) -> None:
    """In the error of a run that failed: here somebody has removed the folder of the frames."""
    parts = [replace(part, event=part.event.model_copy(update={"inline": False})) for part in some_parts(2)]
    async with way(tmp_path) as (_, target), target as entered:
        await played(entered, parts, Pace(None, 1))
        for folder in [path for path in _left_in(tmp_path) if path.startswith("replay-")]:
            (tmp_path / folder).rmdir()
        with pytest.raises(SinkUnavailable, match=r"^cannot put frames into .*: No such file or directory$"):
            await played(entered, parts, Pace(None, 1))


async def test_replay_says_who_it_is_where_the_station_asks(tmp_path: Path) -> None:
    """Encrypted, as a user who may write, at a server that it knows; without that it is told why it is refused."""
    policy, secret, trusted = "Basic256Sha256_SignAndEncrypt", tmp_path / "secret", tmp_path / "trusted"
    (tmp_path / "users").write_text(
        f"plc:plc:{argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash('secret')}\n"
    )
    secret.write_text("secret\n")
    secret.chmod(0o600)
    trusted.mkdir()
    settings = OpcUaServerSettings(port=free_port(), security=(policy,), anonymous=False, users_file=tmp_path / "users")
    login = OpcUaLogin(security=policy, username="plc", password_file=secret, trusted_certs=trusted)
    async with by_opcua_server(tmp_path, settings) as (station, target):
        assert isinstance(target, OpcUaServerReplay)
        endpoint = target._access.endpoint

        def replay_as(login: OpcUaLogin) -> OpcUaServerReplay:
            access = read_access(login, endpoint, station=STATION, pki=tmp_path, section="opcua.replay")
            return OpcUaServerReplay(access, station=STATION, frames=tmp_path)

        refused = {
            "security_refused": OpcUaLogin(),
            "login_refused": OpcUaLogin(security=policy, username="plc", password=SecretStr("guess")),
            "certificate_refused": login,
        }
        for fault, wrong in refused.items():
            with pytest.raises(SinkUnavailable, match=fault):
                await replay_as(wrong).__aenter__()
        shutil.copy(tmp_path / "pki" / "opcua-server.der", trusted)
        async with replay_as(login) as entered:
            result = await played(entered, some_parts(2), Pace(None, 1))
        assert [one.verdict is not None for one in result] == [True, True]
        assert len(station.arrivals) == 2


async def test_live_gate_passes_over_replayed_parts(tmp_path: Path) -> None:
    """A PLC with its gate on the same tags does nothing; parts that came in elsewhere do not even show there."""
    async with by_opcua_server(tmp_path) as (station, target), target as entered:
        assert isinstance(entered, OpcUaServerReplay)
        live = PlcGate(entered._access.endpoint, STATION)
        watching = asyncio.create_task(live.run())
        try:
            async with asyncio.timeout(20):
                await live.connected.wait()
            await played(entered, some_parts(4), Pace(None, 1))
            elsewhere = recorded_part(9).verdict
            assert elsewhere is not None
            elsewhere = elsewhere.model_copy(update={"seq": 99, "replayed": True})
            await station.sinks[0].publish(
                Answer(elsewhere, elsewhere.to_json(), time.monotonic() + 9, Asker("mqtt"), for_gate=False)
            )
            async with plain_client(entered._access.endpoint) as client:
                namespace = await client.get_namespace_index("urn:cangate")
                shown = [tag_node(client, namespace, tag) for tag in (Tag.ResultSeq, Tag.Reject, Tag.CountOk)]
                assert [await node.read_value() for node in shown] == [4, True, 0]
            assert live._actions.empty()
        finally:
            watching.cancel()
            await asyncio.wait([watching])


def as_plc(port: int, broker_port: int, frames: Path) -> OpcUaClientReplay:
    """Return the way in as a PLC at `port`, to whose server no service comes."""
    plc = OpcUaClientSettings.model_validate(PLC | {"endpoint": f"opc.tcp://127.0.0.1:{port}"})
    return OpcUaClientReplay(plc, MqttSettings(port=broker_port), station=STATION, frames=frames)


async def test_plc_that_cannot_begin_leaves_nothing_behind(tmp_path: Path) -> None:
    """The broker is away, or somebody else listens at the PLC's endpoint."""
    with pytest.raises(SinkUnavailable):
        await as_plc(free_port(), free_port(), tmp_path).__aenter__()
    assert not _left_in(tmp_path)
    async with private_mosquitto() as broker:
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="cannot listen"):
            await as_plc(taken.getsockname()[1], broker.port, tmp_path).__aenter__()
    assert not _left_in(tmp_path)


async def test_way_in_that_is_given_up_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C while no service comes to the PLC, and while the station's server does not answer."""

    async def give_up(target: AbstractAsyncContextManager[ReplayTarget], waits: Callable[[], bool]) -> None:
        opening = asyncio.create_task(target.__aenter__())
        await eventually(waits)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not _left_in(tmp_path)

    async with private_mosquitto() as broker:
        plc = as_plc(free_port(), broker.port, tmp_path)
        await give_up(plc, lambda: any(task.get_name() == "plc results" for task in asyncio.all_tasks()))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        access = nobody_at(f"opc.tcp://127.0.0.1:{silent.getsockname()[1]}/")
        server = OpcUaServerReplay(access, station=STATION, frames=tmp_path)
        await give_up(server, lambda: bool(_left_in(tmp_path)))


async def test_ways_in_say_what_they_need(tmp_path: Path) -> None:
    """A service that is nobody's client, a mapping that cannot mark parts, a server that is not there."""
    mqtt = MqttSettings()
    mapped = OpcUaClientSettings.model_validate(PLC | {"endpoint": "opc.tcp://127.0.0.1:1"})
    for settings, broker, named in (
        (OpcUaClientSettings(), mqtt, "endpoint"),
        (mapped.model_copy(update={"event_id": ""}), mqtt, "event_id must be mapped"),
        (mapped.model_copy(update={"image_uri": ""}), mqtt, "image_uri must be mapped"),
        (mapped, mqtt.model_copy(update={"enabled": False}), "mqtt.enabled"),
    ):
        with pytest.raises(UsageError, match=named):
            OpcUaClientReplay(settings, broker, station=STATION, frames=tmp_path)
    with pytest.raises(SinkUnavailable, match=r"opc\.tcp://127\.0\.0\.1:1/: unreachable"):
        async with OpcUaServerReplay(nobody_at("opc.tcp://127.0.0.1:1/"), station=STATION, frames=tmp_path):
            pass
    with pytest.raises(UsageError, match="nowhere"):
        async with OpcUaServerReplay(nobody_at("opc.tcp://127.0.0.1:1/"), station=STATION, frames=tmp_path / "nowhere"):
            pass
    assert not _left_in(tmp_path)

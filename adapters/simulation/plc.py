"""A simulated PLC with its reject gate: an OPC UA client that knows nothing but contract section 3."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from asyncua import Client, Node, ua
from asyncua.common.subscription import DataChangeEvent

from adapters.clock import SystemClock
from adapters.opcua.client.access import PlcAccess
from adapters.opcua.client.secure import secure
from schemas.messages import Decision, Gate, Verdict
from schemas.tags import NAMESPACE_URI, Tag, VerdictCode, result_seq
from service.ports import Clock

HEARTBEAT_LIMIT_S: Final = 2.0
_PUBLISHING_MS = 10.0
_QUEUE_SIZE = 1000
_RETRY_S = 0.5
_RECONNECT_MAX_S = 2.0
_REQUEST_S = 1.0
_RESULT_TAGS: Final = (
    Tag.ResultSeq,
    Tag.ResultValid,
    Tag.Verdict,
    Tag.Reject,
    Tag.ResultEventId,
    Tag.ResultPartId,
    Tag.Results,
    Tag.ResultSeq,
)


@dataclass(frozen=True, slots=True)
class GateAction:
    """What the gate did with one part; `opened` is false where it rejected.

    said: the verdict in full, None where the ring of texts does not hold it any more.
    """

    seq: int
    event_id: str
    part_id: str
    verdict: VerdictCode
    reject: bool
    opened: bool
    said: Verdict | None


@dataclass(frozen=True, slots=True)
class _Result:
    """One consistent sample of the result tags."""

    seq: int
    valid: bool
    verdict: VerdictCode
    reject: bool
    event_id: str
    part_id: str
    ring: tuple[Verdict, ...]


class PlcGate:
    """Triggers inspections and opens or rejects on their results.

    The gate rejects unless a result is valid, says OK, does not say reject, and the heartbeat has risen within two
    seconds. Results that a newer one (or a newer trigger) has overwritten are taken from the ring of texts, where a
    PASS counts only while it is at most `hold_s` seconds old. Parts that are only replayed are passed over, unless
    `replayed` says that they are what the gate is here for. `access` says who the gate is; nobody where it is None.
    """

    def __init__(
        self,
        endpoint: str,
        station: str,
        *,
        clock: Clock | None = None,
        hold_s: float = 0.5,
        replayed: bool = False,
        access: PlcAccess | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._access = access
        self._station = station
        self._clock = clock or SystemClock()
        self._hold_s = hold_s
        self._replayed = replayed
        self._nodes: dict[Tag, Node] = {}
        self._client: Client | None = None
        self._actions: asyncio.Queue[GateAction] = asyncio.Queue()
        self._last_seq: int | None = None
        self._newest = 0  # highest seq of a verdict that was acted on or came before the gate looked
        self._trigger = 0
        self._heartbeat: int | None = None
        self._beat_at = self._clock.monotonic()
        self.connected = asyncio.Event()
        """Set once results and heartbeat have been seen for the first time: from then on no result escapes the gate."""
        self.lost = asyncio.Event()
        """Set while the connection is lost that was there; the gate tries to make another."""

    @property
    def trusted(self) -> bool:
        """Tell whether the station's heartbeat has risen within the last two seconds."""
        return self._heartbeat is not None and self._clock.monotonic() - self._beat_at <= HEARTBEAT_LIMIT_S

    async def run(self) -> None:
        """Watch the station until cancelled; reconnect by itself."""
        # it logs a lost connection, and every attempt to make another, with a traceback
        logging.getLogger("asyncua.client").setLevel(logging.CRITICAL)
        async with self._connected() as client:
            namespace = await client.get_namespace_index(NAMESPACE_URI)
            self._nodes = {tag: client.get_node(f"ns={namespace};s={tag.node_id(self._station)}") for tag in Tag}
            self._trigger = await self._nodes[Tag.Trigger].read_value()
            self._client = client
            subscription = await client.create_subscription(_PUBLISHING_MS, queue_maxsize=_QUEUE_SIZE)
            watched = [self._nodes[Tag.ResultSeq], self._nodes[Tag.Heartbeat]]
            await subscription.subscribe_data_change(
                watched, queuesize=_QUEUE_SIZE, sampling_interval=ua.Duration(_PUBLISHING_MS)
            )
            async for event in subscription:
                if isinstance(event, DataChangeEvent) and event.node == self._nodes[Tag.Heartbeat]:
                    self._beat(event.value)
                # A heartbeat, too, is a reason to look: a connection that was lost may have swallowed a ResultSeq.
                with contextlib.suppress(OSError, TimeoutError, ua.UaError):
                    await self._take_results(client)
                    self.lost.clear()
                    if self._heartbeat is not None:
                        self.connected.set()

    async def trigger(self, part_id: str, image_uri: str, event_id: str = "") -> int:
        """Ask for an inspection, texts first and Trigger last; return the trigger id.

        Raises:
            ConnectionError: the gate is not connected.
            ua.UaError: the station refused the write.
        """
        await self.announce(part_id, image_uri, event_id)
        return await self.fire()

    async def announce(self, part_id: str, image_uri: str, event_id: str = "") -> None:
        """Write the texts that the next trigger is about.

        Raises:
            ConnectionError: the gate is not connected, or somebody else triggers this station.
            ua.UaError: the station refused the write.
        """
        client = self._connected_client()
        if await self._nodes[Tag.Trigger].read_value() != self._trigger:
            raise ConnectionError(f"somebody else triggers the station {self._station}")
        texts = {Tag.TriggerPartId: part_id, Tag.TriggerImageUri: image_uri, Tag.TriggerEventId: event_id}
        await client.write_values([self._nodes[tag] for tag in texts], list(texts.values()))

    async def fire(self) -> int:
        """Write Trigger; return the trigger id.

        Raises:
            ConnectionError: the gate is not connected.
            ua.UaError: the station refused the write.
        """
        self._connected_client()
        self._trigger = result_seq(self._trigger + 1)
        await self._nodes[Tag.Trigger].write_value(self._trigger, ua.VariantType.UInt32)
        return self._trigger

    def _connected_client(self) -> Client:
        if self._client is None:
            raise ConnectionError("the gate is not connected")
        return self._client

    async def actions(self) -> AsyncIterator[GateAction]:
        """Yield what the gate does, in the order of the results, without end."""
        while True:
            yield await self._actions.get()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        while True:
            client = Client(
                self._endpoint,
                timeout=_REQUEST_S,
                watchdog_intervall=_RETRY_S,
                auto_reconnect=True,
                reconnect_max_delay=_RECONNECT_MAX_S,
                reconnect_request_timeout=_REQUEST_S,
            )
            client.session_timeout = 60_000
            client.connection_lost_callback = self._note_lost
            try:
                if self._access is not None:
                    client.application_uri = self._access.application_uri
                    await secure(client, self._access)
                await client.connect()
                break
            except (OSError, TimeoutError, ua.UaError):
                await asyncio.sleep(_RETRY_S)
        try:
            yield client
        finally:
            self._client = None
            await client.disconnect()

    async def _note_lost(self, _: Exception) -> None:
        self.lost.set()

    def _beat(self, heartbeat: int | None) -> None:
        if heartbeat != self._heartbeat:
            self._heartbeat = heartbeat
            self._beat_at = self._clock.monotonic()

    async def _take_results(self, client: Client) -> None:
        """Act on every result that is new, oldest first, and acknowledge the newest."""
        result = await self._sample(client)
        if self._last_seq is None:  # what was decided before the gate looked has long passed it
            self._last_seq = result.seq
            self._note(result.ring)
            return
        if result.seq == self._last_seq:
            return
        for action in self._act(result):
            if self._replayed or action.said is None or not action.said.replayed:
                self._actions.put_nowait(action)
        self._last_seq = result.seq
        self._note(result.ring)
        await self._nodes[Tag.ResultAck].write_value(result.seq, ua.VariantType.UInt32)

    async def _sample(self, client: Client) -> _Result:
        while True:
            seq, valid, verdict, reject, event_id, part_id, ring, seq_after = await client.read_values(
                [self._nodes[tag] for tag in _RESULT_TAGS]
            )
            if seq == seq_after:  # else the station wrote between two tags
                texts = tuple(Verdict.model_validate_json(text) for text in ring)
                return _Result(seq, valid, VerdictCode(verdict), reject, event_id, part_id, texts)

    def _act(self, result: _Result) -> Iterator[GateAction]:
        current = result.valid and result.verdict is not VerdictCode.NONE
        # one that is repeated lies in the ring where it belongs, behind newer ones that were acted on
        for verdict in reversed([each for each in result.ring if each.seq > self._newest]):
            if not current or result_seq(verdict.seq) != result.seq:
                yield self._from_text(verdict)
        if current:
            opened = self.trusted and result.verdict is VerdictCode.OK and not result.reject
            said = next((verdict for verdict in result.ring if result_seq(verdict.seq) == result.seq), None)
            yield GateAction(result.seq, result.event_id, result.part_id, result.verdict, result.reject, opened, said)

    def _note(self, ring: Sequence[Verdict]) -> None:
        self._newest = max([self._newest, *(verdict.seq for verdict in ring)])

    def _from_text(self, verdict: Verdict) -> GateAction:
        age_s = (self._clock.now() - verdict.received_at).total_seconds()
        reject = verdict.gate is Gate.REJECT or verdict.late or age_s > self._hold_s
        opened = self.trusted and verdict.decision is Decision.OK and not reject
        code = VerdictCode.of(verdict.decision)
        return GateAction(
            seq=result_seq(verdict.seq),
            event_id=verdict.event_id,
            part_id=verdict.part_id or "",
            verdict=code,
            reject=reject,
            opened=opened,
            said=verdict,
        )

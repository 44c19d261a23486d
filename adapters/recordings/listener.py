"""Records a line from outside: hears its events and verdicts over MQTT and reads the frames that they name."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import structlog
from pydantic import ValidationError

from adapters.mqtt.access import guest_access
from adapters.mqtt.codec import Unusable, read_image_ready, read_raw_image
from adapters.mqtt.connection import Connection
from adapters.mqtt.packets import Incoming
from adapters.recordings.recorder import Fetch, SessionRecorder
from schemas.messages import ImageEvent, ImageRef, Verdict
from schemas.settings import MqttSettings
from schemas.topics import Leaf, Prefix, StationTopics
from service.errors import FrameError, SinkUnavailable
from service.ports import Arrival, Clock

log = structlog.get_logger(__name__)

_LEAVES: Final = (Leaf.IMAGE_READY, Leaf.IMAGE_READY_RAW, Leaf.VERDICT)
_WAITING: Final = 64
"""Events that may wait for their verdict, each with its frame; the oldest is then recorded without one."""

_SUSPICIOUS: Final = 8
"""So many events without any verdict: a broker says nothing of a topic that a login may subscribe to and not read."""

_REMEMBERED: Final = 4096
"""Event ids of recorded parts: a repeated verdict is no second part."""

_RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Heard:
    arrival: Arrival
    frame: asyncio.Task[bytes | None]


class MqttListener:
    """Subscribes beside the service and hands whole parts to a recorder. Changes nothing on the line.

    An event that came in another way (OPC UA) is known by its verdict alone, and is recorded as that tells it. A frame
    is read as soon as its event is heard, since a camera may soon write over it.

    Args:
        settings: the broker, the same as the station's.
        station: id of the station.
        recorder: takes the parts.
        fetch: reads a frame; called on a thread.
        max_raw_bytes: largest image that may come inside a message.
        clock: stamps what comes in.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        station: str,
        recorder: SessionRecorder,
        fetch: Fetch,
        max_raw_bytes: int,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._station = station
        self._recorder = recorder
        self._fetch = fetch
        self._max_raw_bytes = max_raw_bytes
        self._clock = clock
        self._topics = StationTopics(Prefix(settings.prefix), station)
        self._leaf_of = {self._topics.of(leaf): leaf for leaf in _LEAVES}
        self._waiting: OrderedDict[str, _Heard] = OrderedDict()
        self._done: OrderedDict[str, None] = OrderedDict()
        self._handing_over: set[asyncio.Task[None]] = set()
        self._verdict_heard = False
        self.listening = asyncio.Event()
        """Set while the broker sends what it hears."""

    async def run(self) -> None:
        """Listen until cancelled; reconnect by itself. Raises UsageError where a file cannot be used."""
        access = await asyncio.to_thread(guest_access, self._settings, station=self._station, role="record")
        while True:
            connection = Connection(access, clock=self._clock, on_message=self._on_message)
            try:
                await connection.connect()
                for refusal in await connection.subscribe(*self._leaf_of):
                    if refusal is not None:
                        log.warning("mqtt_subscription_refused", reason=refusal)
                self.listening.set()
                reason = await asyncio.shield(connection.lost)
            except SinkUnavailable as exc:
                reason = str(exc)
            finally:
                self.listening.clear()
                connection.abort("stopped")
            log.warning("mqtt_disconnected", fault=f"{access}: {reason}")
            await asyncio.sleep(_RETRY_S)

    async def finish(self) -> None:
        """Hand over what is still waiting for its verdict."""
        while self._waiting:
            self._hand_over(self._waiting.popitem(last=False)[1], None)
        if self._handing_over:
            await asyncio.wait(self._handing_over)

    def _on_message(self, connection: Connection, message: Incoming) -> None:
        connection.ack(message)
        leaf = self._leaf_of.get(message.topic)
        if leaf is None or message.retain:
            return
        if leaf is Leaf.VERDICT:
            self._take_verdict(message)
            return
        if leaf is Leaf.IMAGE_READY:
            request = read_image_ready(message.payload)
        else:
            request = read_raw_image(message.payload, message.user_properties, max_bytes=self._max_raw_bytes)
        if isinstance(request, Unusable) or request.event.replayed:
            return
        arrival = Arrival(
            event=request.event,
            image=request.image,
            received_at=message.received_at,
            received_monotonic=message.received_monotonic,
            source="mqtt",
            frame_bytes=request.frame_bytes,
        )
        event_id = arrival.event.event_id
        if event_id in self._done or event_id in self._waiting:
            return
        self._waiting[event_id] = self._hear(arrival)
        if len(self._waiting) == _SUSPICIOUS and not self._verdict_heard:
            why = "is the service running, and may this login read the topic?"
            log.warning("no_verdict_heard", topic=self._topics.of(Leaf.VERDICT), events=_SUSPICIOUS, ask=why)
        if len(self._waiting) > _WAITING:
            self._hand_over(self._waiting.popitem(last=False)[1], None)

    def _take_verdict(self, message: Incoming) -> None:
        try:
            verdict = Verdict.model_validate_json(message.payload)
        except ValidationError:
            return
        self._verdict_heard = True
        heard = self._waiting.pop(verdict.event_id, None)
        if heard is None:
            if verdict.event_id in self._done or verdict.replayed:
                return
            heard = self._hear(_arrival_of(verdict, message))
        self._hand_over(heard, verdict)

    def _hear(self, arrival: Arrival) -> _Heard:
        return _Heard(arrival, asyncio.create_task(asyncio.to_thread(self._read, arrival)))

    def _read(self, arrival: Arrival) -> bytes | None:
        try:
            return self._fetch(arrival.image, arrival.frame_bytes)
        except FrameError as exc:
            log.warning("frame_not_read", event_id=arrival.event.event_id, error=str(exc))
            return None

    def _hand_over(self, heard: _Heard, verdict: Verdict | None) -> None:
        self._done[heard.arrival.event.event_id] = None
        while len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)
        task = asyncio.create_task(self._offer(heard, verdict))
        self._handing_over.add(task)
        task.add_done_callback(self._handing_over.discard)

    async def _offer(self, heard: _Heard, verdict: Verdict | None) -> None:
        self._recorder.offer(heard.arrival, verdict, await heard.frame)


def _arrival_of(verdict: Verdict, message: Incoming) -> Arrival:
    event = ImageEvent(
        event_id=verdict.event_id,
        part_id=verdict.part_id,
        trigger_id=verdict.trigger_id,
        captured_at=verdict.captured_at,
        simulated=verdict.simulated,
    )
    uri = None if verdict.image is None else verdict.image.uri
    return Arrival(
        event=event,
        image=None if uri is None else ImageRef(uri=uri),
        received_at=verdict.received_at,
        received_monotonic=message.received_monotonic,
        source="other",
    )

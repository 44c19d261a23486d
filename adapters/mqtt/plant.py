"""The plant's side of a station's topics: publishes image-ready events and hears their verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from adapters.clock import SystemClock
from adapters.mqtt.access import guest_access
from adapters.mqtt.connection import Confirmation, Connection
from adapters.mqtt.packets import Incoming, Outgoing
from schemas.base import rfc3339
from schemas.messages import ImageEvent, ImageReady, ImageRef, StationState, Status, Verdict
from schemas.settings import MqttSettings
from schemas.topics import Leaf, Prefix, StationTopics
from service.errors import SinkUnavailable


@dataclass(frozen=True, slots=True)
class HeardVerdict:
    """A verdict and when it came, in seconds of `Clock.monotonic`."""

    verdict: Verdict
    arrived_monotonic: float


class PlantConnection:
    """A connection as a camera has it. Use with `async with`.

    Args:
        settings: the broker, the same as the station's.
        station: id of the station.
        role: begins the client id, e.g. "camera".
        on_state: is told the state in every status of the station, the last will of its service among them. A login
            that may not read them is told nothing.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        station: str,
        role: str,
        on_state: Callable[[StationState], None] | None = None,
    ) -> None:
        self._settings = settings
        self._station = station
        self._role = role
        self._on_state = on_state
        self._topics = StationTopics(Prefix(settings.prefix), station)
        self._connection: Connection | None = None
        self._expected: dict[str, asyncio.Future[HeardVerdict]] = {}

    async def __aenter__(self) -> Self:
        """Connect. Raises SinkUnavailable where the broker is not there, UsageError where a file is not."""
        access = await asyncio.to_thread(guest_access, self._settings, station=self._station, role=self._role)
        connection = Connection(access, clock=SystemClock(), on_message=self._on_message)
        await connection.connect()
        topics = [self._topics.of(Leaf.VERDICT)]
        if self._on_state is not None:
            topics.append(self._topics.of(Leaf.STATUS))
        refusal, *_ = await connection.subscribe(*topics)
        if refusal is not None:
            await connection.close(timeout_s=1.0)
            raise SinkUnavailable(f"subscription to verdicts refused by the broker: {refusal}")
        self._connection = connection
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close(timeout_s=1.0)

    @property
    def lost(self) -> asyncio.Future[str]:
        """Return a future that says why the connection broke, once it does."""
        assert self._connection is not None, "use it with `async with`"
        return self._connection.lost

    def expect(self, event_id: str) -> asyncio.Future[HeardVerdict]:
        """Return a future for the verdict of an event; ask before it is published, and `forget` it in the end."""
        return self._expected.setdefault(event_id, asyncio.get_running_loop().create_future())

    def forget(self, event_id: str) -> None:
        """Wait no longer for the verdict of an event."""
        self._expected.pop(event_id, None)

    def publish(self, event: ImageEvent, image: ImageRef | None, encoded: bytes | None) -> Confirmation:
        """Publish an event: with a reference to its image, else with the encoded image inside (MQTT 5 only)."""
        assert self._connection is not None, "use it with `async with`"
        if image is not None:
            known = event.model_dump(include=set(ImageEvent.model_fields))
            ready = ImageReady(**known, image=image)
            return self._connection.publish(Outgoing(self._topics.of(Leaf.IMAGE_READY), ready.to_json()))
        properties = {
            "event_id": event.event_id,
            "part_id": event.part_id,
            "trigger_id": event.trigger_id,
            "captured_at": None if event.captured_at is None else rfc3339(event.captured_at),
            "deadline_ms": event.deadline_ms,
            "simulated": "true" if event.simulated else None,
            "replayed": "true" if event.replayed else None,
        }
        given = tuple((name, str(value)) for name, value in properties.items() if value is not None)
        return self._connection.publish(
            Outgoing(self._topics.of(Leaf.IMAGE_READY_RAW), encoded or b"", user_properties=given)
        )

    def _on_message(self, connection: Connection, message: Incoming) -> None:
        connection.ack(message)
        with suppress(ValidationError):  # somebody else's: ours would be in order
            if self._on_state is not None and message.topic == self._topics.of(Leaf.STATUS):
                self._on_state(Status.model_validate_json(message.payload).state)
                return
            verdict = Verdict.model_validate_json(message.payload)
            expected = self._expected.get(verdict.event_id)
            if expected is not None and not expected.done():
                expected.set_result(HeardVerdict(verdict, message.received_monotonic))

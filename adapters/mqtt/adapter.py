"""The service as an MQTT client (contract section 2)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

import structlog

from adapters.mqtt.access import BrokerAccess, read_access
from adapters.mqtt.codec import Unusable, read_image_ready, read_raw_image
from adapters.mqtt.commands import Commands
from adapters.mqtt.connection import Confirmation, Connection
from adapters.mqtt.packets import Incoming, Outgoing
from adapters.mqtt.poison_message import PoisonMessageDetector
from adapters.telemetry import Metrics
from schemas.messages import Gate, GateCommand, StationState, Status
from schemas.settings import MqttSettings
from schemas.topics import Leaf, Prefix, StationTopics
from service.errors import SinkRefused, SinkUnavailable, UsageError
from service.ports import Answer, Arrival, Clock, CommandHandler, Intake
from service.tasks import together

log = structlog.get_logger(__name__)

_FIRST_RETRY_S = 0.1
_STEADY_S = 10.0
"""A connection that held this long was a good one: the next attempt after its loss is made at once."""

_LOST_SOON = 3
"""So many connections may end sooner, one after the other, before it is asked who else has our name. A message that a
broker does not take, and says so by hanging up, is found out after as many.
"""

_STATUS_EVERY_S = 1.0
_REFUSED_SHOWN_S = 2.0
"""A message that was refused for what it is says so at least for as long as a status takes to show it."""

_GOODBYE_S = 1.0
_CLOSE_S = 0.5
_EVENT_LEAVES = (Leaf.IMAGE_READY, Leaf.IMAGE_READY_RAW)


@dataclass(slots=True)
class _Refusal:
    """What a broker said of a topic, and when last; is_over: it has taken something there since."""

    text: str
    said_at: float
    is_over: bool = False

    def shows(self, now: float) -> bool:
        """Tell whether a status has to name it."""
        return not self.is_over or now - self.said_at < _REFUSED_SHOWN_S


class MqttAdapter:
    """Takes image-ready events and commands from a broker and publishes verdicts, gate commands and status.

    Fulfils `Adapter` and `VerdictSink`. A retained copy on `image-ready` or `cmd` is old news that a broker hands to
    whoever subscribes: acting on it would judge a part that is long gone, so it is counted and ignored.

    Args:
        settings: the broker and how to be there.
        station: id of the station.
        clock: stamps what comes in.
        max_raw_bytes: largest image that may come inside a message.
        metrics: counts what is refused.
        worker: what tells it from others of its share group on this machine, the same at each start.
    """

    name = "mqtt"

    def __init__(
        self,
        settings: MqttSettings,
        *,
        station: str,
        clock: Clock,
        max_raw_bytes: int,
        metrics: Metrics | None = None,
        worker: str = "",
    ) -> None:
        self._settings = settings
        self._station = station
        self._clock = clock
        self._max_raw_bytes = max_raw_bytes
        self._worker = worker
        self._metrics = metrics or Metrics()
        self._topics = StationTopics(Prefix(settings.prefix), station)
        heard = (*_EVENT_LEAVES, Leaf.COMMAND) if settings.commands else _EVENT_LEAVES
        self._leaf_of = {self._topics.of(leaf): leaf for leaf in heard}
        self._access: BrokerAccess | None = None
        self._connection: Connection | None = None
        self._fault: str | None = "not connected yet"
        self._poison_detector = PoisonMessageDetector()
        self._refused: dict[Leaf, _Refusal] = {}
        self._unheard: str | None = None
        self._intake: Intake | None = None
        self._commands = Commands(self._topics, source=self.name, metrics=self._metrics, publish=self._publish_reply)
        self._status = Status(
            station=station, state=StationState.OFFLINE, since=clock.now(), version=version("cangate")
        )
        self._status_told: tuple[Connection, StationState, float] | None = None

    @property
    def fault(self) -> str | None:
        """Why nothing can be published now, in one line; None while all is well."""
        if self._connection is not None and self._connection.lost.done():
            return f"{self._access}: {self._connection.lost.result()}"
        return self._fault

    @property
    def refused(self) -> str | None:
        """What the broker does not take from us, or let us hear, e.g. because of its access list; None: nothing.

        No fault of the connection: every new message is offered once. A broker of MQTT 3.1.1 never says so of what it
        does not take, but for closing the connection.
        """
        now = self._clock.monotonic()
        shown = (f"{leaf} is {refusal.text}" for leaf, refusal in self._refused.items() if refusal.shows(now))
        return self._unheard or next(shown, None)

    async def open(self) -> None:
        """Read what the settings name. A broker that is away is no error: it is tried again and again.

        Raises:
            UsageError: a file cannot be used.
        """
        self._access = await asyncio.to_thread(read_access, self._settings, station=self._station, worker=self._worker)

    async def run(self, intake: Intake, commands: CommandHandler) -> None:
        """Serve until cancelled. What is confirmed late can still be published until `close`."""
        if self._connection is not None:
            self._connection.abort("restarted")
        self._intake = intake
        try:
            await together(
                ("mqtt connection", self._stay_connected), ("mqtt commands", partial(self._commands.run, commands))
            )
        finally:
            self._intake = None

    async def close(self) -> None:
        """Publish that the station is offline and disconnect, so that the broker need not say it."""
        connection, self._connection = self._connection, None
        self._fault = "closed"
        if connection is not None:
            await asyncio.wait([connection.publish(self._offline())], timeout=_GOODBYE_S)
            await connection.close(timeout_s=_CLOSE_S)

    async def publish(self, answer: Answer) -> None:
        """Publish the verdict and, where it may still be said, the gate command; return when both are accepted.

        Raises:
            SinkRefused: the broker takes no verdict from us.
            SinkUnavailable: one was not accepted.
        """
        connection = self._require_connection()
        expires = answer.deadline_monotonic
        verdict = Outgoing(
            self._topics.of(Leaf.VERDICT),
            answer.verdict_json,
            expires_monotonic=expires,
            correlation_data=answer.asker.correlation_data,
        )
        ways = {Leaf.VERDICT: partial(connection.publish, verdict)}
        if not answer.repeated:
            ways[Leaf.GATE] = partial(self._publish_gate, connection, answer)
        # the gate need not wait for what may be the poison message
        order = reversed(ways) if self._poison_detector.one_by_one else iter(ways)
        confirmations = {leaf: ways[leaf]() for leaf in order}
        await self._confirmed(connection, confirmations)

    def _publish_gate(self, connection: Connection, answer: Answer) -> Confirmation:
        said: list[Gate | None] = []

        def wanted() -> bool:
            said.append(answer.gate_at(self._clock.monotonic()))
            return said[-1] is not None

        def note(confirmation: Confirmation) -> None:
            late_s = self._clock.monotonic() - answer.deadline_monotonic
            may_be_heard = confirmation.result() is None or connection.lost.done()
            if said == [Gate.PASS] and late_s > 0 and may_be_heard:
                # it left in time, as far as can be seen here; who looks into it needs to know which
                self._metrics.pass_unconfirmed.inc()
                log.warning("pass_unconfirmed", event_id=answer.verdict.event_id, late_ms=round(late_s * 1000, 1))

        gate = Outgoing(
            self._topics.of(Leaf.GATE),
            GateCommand.of(answer.verdict).to_json(),
            expires_monotonic=answer.deadline_monotonic,
            wanted=wanted,
        )
        confirmation = connection.publish(gate)
        confirmation.add_done_callback(note)
        return confirmation

    async def publish_status(self, status: Status, *, ready: bool) -> None:  # noqa: ARG002 - says nothing more here
        """Publish the retained status: after a connect, when something is wrong or right again, else once a second.

        Raises:
            SinkUnavailable: it was not accepted.
        """
        self._status = status
        connection = self._require_connection()
        now = self._clock.monotonic()
        if self._status_told is not None:
            told_on, state, told_at = self._status_told
            # a line flips between ready and busy with every part: no news worth two messages a part
            same = state is status.state or {state, status.state} == {StationState.READY, StationState.BUSY}
            if told_on is connection and same and now - told_at < _STATUS_EVERY_S:
                return
        self._status_told = (connection, status.state, now)
        message = Outgoing(self._topics.of(Leaf.STATUS), status.to_json(), retain=True)
        await self._confirmed(connection, {Leaf.STATUS: connection.publish(message)})

    async def _publish_reply(self, reply: Outgoing) -> None:
        connection = self._require_connection()
        await self._confirmed(connection, {Leaf.REPLY: connection.publish(reply)})

    def _require_connection(self) -> Connection:
        if self._connection is None:
            raise SinkUnavailable(self._fault or "not connected")
        return self._connection

    async def _confirmed(self, connection: Connection, confirmations: Mapping[Leaf, Confirmation]) -> None:
        _, silent = await asyncio.wait(confirmations.values(), timeout=self._settings.publish_timeout_s)
        if silent:
            # a broker that does not answer would answer for all of it later, after it has been published again
            connection.abort(f"no acknowledgement within {self._settings.publish_timeout_s:g} s")
        refusals = {leaf: confirmation.result() for leaf, confirmation in confirmations.items()}
        answered = not connection.lost.done()
        if answered:
            self._note_refusals(refusals)
            # the verdict beside it is out: the status says what is wrong
            refusals.pop(Leaf.GATE, None)
        for refusal in refusals.values():
            if refusal is not None:
                raise (SinkRefused if answered else SinkUnavailable)(refusal)

    def _note_refusals(self, refusals: Mapping[Leaf, str | None]) -> None:
        now = self._clock.monotonic()
        for leaf, refusal in refusals.items():
            before = self._refused.get(leaf)
            if refusal is None:
                if before is not None and not before.is_over:
                    before.is_over = True
                    log.info("mqtt_publish_accepted_again", leaf=leaf)
            elif leaf is not Leaf.REPLY:  # a reply goes where its asker says
                self._refused[leaf] = _Refusal(refusal, now)
                if before is None or before.is_over or before.text != refusal:
                    log.error("mqtt_publish_refused", topic=self._topics.of(leaf), reason=refusal)

    def _offline(self) -> Outgoing:
        status = self._status.model_copy(
            update={"state": StationState.OFFLINE, "since": self._clock.now(), "queue": 0, "fault": None}
        )
        return Outgoing(self._topics.of(Leaf.STATUS), status.to_json(), retain=True)

    async def _stay_connected(self) -> None:
        if self._access is None:
            raise UsageError("the MQTT adapter was not opened")
        retry_s, lost_soon = _FIRST_RETRY_S, 0
        while True:
            began = self._clock.monotonic()
            fault = f"{self._access}: {await self._serve(self._access)}"
            was_soon = self._fault is None and self._clock.monotonic() - began < _STEADY_S
            lost_soon = lost_soon + 1 if was_soon else 0
            if lost_soon > _LOST_SOON:
                fault += f", again and again; does another client call itself {self._access.client_id}?"
            if fault != self._fault:
                self._fault = fault
                log.warning("mqtt_disconnected", fault=fault)
            if self._clock.monotonic() - began > _STEADY_S:
                retry_s = _FIRST_RETRY_S
            # spread, so that a line of stations does not fall upon a broker that comes back
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
            retry_s = min(self._settings.reconnect_max_s, retry_s * 2)

    async def _serve(self, access: BrokerAccess) -> str:
        """Connect and stay until the connection is lost; return why."""
        connection = Connection(
            access,
            clock=self._clock,
            on_message=self._on_message,
            will=self._offline(),
            poison_detector=self._poison_detector,
        )
        try:
            await connection.connect()
            # events of a kept session come before the subscription is confirmed: their answers must find a way out
            self._connection = connection
            await self._subscribe(connection)
            self._fault = None
            self._refused.clear()
            log.info("mqtt_connected", broker=str(access))
            reason = await asyncio.shield(connection.lost)
        except SinkUnavailable as exc:
            reason = str(exc)
        except asyncio.CancelledError:
            if self._connection is not connection:
                connection.abort("cancelled")
            raise
        if self._connection is connection:
            self._connection = None
        return reason

    async def _subscribe(self, connection: Connection) -> None:
        events = [self._topics.subscription(leaf, self._settings.share_group) for leaf in _EVENT_LEAVES]
        # a command is for every worker of a share group
        filters = [*events, self._topics.subscription(Leaf.COMMAND)] if self._settings.commands else events
        # with a client id of its own choice, a worker that joins a share group finds its own events in its old session:
        # each would be judged here and by another one. The name of a group that it has left nobody knows any more
        plain = [self._topics.of(leaf) for leaf in _EVENT_LEAVES] if self._settings.share_group else []
        refusals = await connection.subscribe(*filters, instead_of=plain)
        self._unheard = None
        for topic_filter, refusal in zip(filters, refusals, strict=True):
            if refusal is not None:
                log.warning("mqtt_subscription_refused", topic=topic_filter, reason=refusal)
                if topic_filter != events[-1]:  # a plant that sends references need not let us hear images
                    self._unheard = self._unheard or f"subscription to {topic_filter} refused by the broker: {refusal}"
        if all(refusals[: len(events)]):
            connection.abort(f"subscription to {events[0]} refused by the broker: {refusals[0]}")
            raise SinkUnavailable(connection.lost.result())

    def _on_message(self, connection: Connection, message: Incoming) -> None:
        if self._intake is None:
            return  # left unacknowledged: the broker keeps it for the next run
        leaf = self._leaf_of.get(message.topic)
        if leaf is None:
            self._refuse(connection, message, Unusable("foreign_topic", "left over from an earlier subscription"))
        elif message.retain:
            self._refuse(connection, message, Unusable("retained", "a retained copy is old news"))
        elif leaf is not Leaf.IMAGE_READY_RAW and len(message.payload) > self._settings.max_json_bytes:
            self._refuse(connection, message, Unusable("too_large", f"{len(message.payload)} bytes of JSON"))
        elif leaf is Leaf.COMMAND:
            # before it is carried out: a command that brings the service down must not come again with the next start
            connection.ack(message)
            self._commands.take(message)
        else:
            self._take_event(connection, message, leaf, self._intake)

    def _refuse(self, connection: Connection, message: Incoming, unusable: Unusable) -> None:
        self._metrics.refused.labels(self.name, unusable.reason).inc()
        log.warning("mqtt_input_refused", topic=message.topic, reason=unusable.reason, detail=unusable.detail)
        connection.ack(message)

    def _take_event(self, connection: Connection, message: Incoming, leaf: Leaf, intake: Intake) -> None:
        if leaf is Leaf.IMAGE_READY:
            request = read_image_ready(message.payload)
        else:
            request = read_raw_image(message.payload, message.user_properties, max_bytes=self._max_raw_bytes)
        if isinstance(request, Unusable):
            self._refuse(connection, message, request)
            return
        if request.refusal is not None:
            self._metrics.refused.labels(self.name, "invalid_event").inc()
        intake.submit(
            Arrival(
                event=request.event,
                image=request.image,
                received_at=message.received_at,
                received_monotonic=message.received_monotonic,
                source=self.name,
                frame_bytes=request.frame_bytes,
                correlation_data=message.correlation_data,
                refusal=request.refusal,
                comes_again=message.qos > 0 and self._access is not None and self._access.outlives_a_restart,
                # what is inside need not wait for the acknowledgement
                answered=partial(connection.ack, replace(message, payload=b"")),
            )
        )

"""The Protocols an adapter fulfils, and the values that cross them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from schemas.messages import Command, CommandReply, Decision, Gate, ImageEvent, ImageRef, Reason, Status, Verdict
from service.pipeline.types import Frame, Inspection


class Clock(Protocol):
    """Wall time for the wire, monotonic time for everything inside."""

    def now(self) -> datetime:
        """Return the wall time, aware, UTC."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never jumps."""

    @property
    def epoch(self) -> str:
        """Name of the monotonic clock's zero: two readings with the same name can be compared, across processes too."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an event that named itself is answered without being looked at."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """One image-ready event as an adapter received it.

    frame_bytes: the encoded image where it came with the event. correlation_data: echoed with the verdict (MQTT 5).
    promised: its source was shown that there is room, so it is not turned away for want of it.
    comes_again: its source gives it again where it is not acknowledged.
    age_known: received_monotonic is a moment of this start of the machine; else it is made up, long ago.
    answered: called once on the event loop when the verdict is stored or confirmed; the source may then acknowledge.
    """

    event: ImageEvent
    image: ImageRef | None
    received_at: datetime
    received_monotonic: float
    source: str
    frame_bytes: bytes | None = None
    correlation_data: bytes | None = None
    refusal: Refusal | None = None
    promised: bool = False
    comes_again: bool = False
    age_known: bool = True
    answered: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked for a verdict, and what they named; another who named the same event may have asked for it before.

    source: name of the adapter that the event came by. trigger_id, part_id: of their event. correlation_data: as it
    came with that.
    """

    source: str
    trigger_id: int | None = None
    part_id: str | None = None
    correlation_data: bytes | None = None

    @classmethod
    def of(cls, asked: Arrival | JournalEntry) -> Asker:
        """Return who sent an event."""
        return cls(asked.source, asked.event.trigger_id, asked.event.part_id, asked.correlation_data)


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict on its way to the sinks, with the exact bytes that were stored.

    deadline_monotonic: when the gate must have been told, on `Clock.monotonic`. asker: whom it is for. repeated: the
    event was answered before; only who asks again needs to hear it. for_gate: whether the gate may hear of it at all;
    a replayed part is none of its business unless the plant says so (`gate.on_replayed`). transit_s: how long it may
    take to arrive. decided_monotonic: when it was decided, or should have been; None for a verdict of an earlier run.
    """

    verdict: Verdict
    verdict_json: bytes
    deadline_monotonic: float
    asker: Asker
    repeated: bool = False
    for_gate: bool = True
    transit_s: float = 0.0
    decided_monotonic: float | None = None

    def gate_at(self, monotonic: float) -> Gate | None:
        """Return what may be said to the gate at `monotonic`: too late to arrive in time only REJECT, else None."""
        if not self.for_gate:
            return None
        in_time = monotonic <= self.deadline_monotonic - self.transit_s
        return self.verdict.gate if in_time or self.verdict.gate is Gate.REJECT else None

    @property
    def is_about_their_part(self) -> bool:
        """Tell whether the verdict is on the part that the asker named; one who named none goes by the event id.

        An event id may be named again for another part: by a PLC that writes its texts once too seldom, say. What was
        seen of the first part then says nothing of the second, and must not let it pass.
        """
        return not self.asker.part_id or self.asker.part_id == self.verdict.part_id


class Intake(Protocol):
    """What a source hands its events to."""

    def submit(self, arrival: Arrival) -> None:
        """Take over `arrival`: never blocks, never raises; exactly one answer follows. Call on the event loop."""

    @property
    def ready(self) -> bool:
        """Tell whether a new event would be judged now (a model is loaded, not paused, the queue has room)."""

    @property
    def left_open(self) -> Sequence[Arrival]:
        """Events that an earlier run was given and did not answer; they are in work, whichever source they had."""


class CommandHandler(Protocol):
    """What a source hands its commands to."""

    async def handle(self, command: Command, source: str) -> CommandReply:
        """Carry out `command` and say how it went; never raises."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A version of a model in the store."""

    name: str
    version: str


class ModelShelf(Protocol):
    """The models that a station could judge with. To activate one is a `Command`."""

    async def stored(self) -> Sequence[StoredModel]:
        """Return every version in the store, by name and age."""

    async def unload(self) -> None:
        """Judge no more until a model is activated; the version that is active in the store stays so."""


class StationView(Protocol):
    """What a page or a probe may ask about the station."""

    def status(self) -> Status:
        """Return the state of the station now."""

    def not_ready(self) -> Sequence[str]:
        """Return why the station cannot work, e.g. "mqtt: connection refused"; empty while it can."""


class VerdictSink(Protocol):
    """Somewhere that verdicts are published."""

    @property
    def name(self) -> str:
        """Short name for logs, metrics and the journal, e.g. "mqtt"."""

    @property
    def fault(self) -> str | None:
        """Why nothing can be published now, in one line; None while all is well."""

    async def publish(self, answer: Answer) -> None:
        """Publish verdict and gate command and return when both are confirmed.

        Everything up to the first await runs in the order of `seq`; keep what must stay in order there. What goes to
        the gate follows `answer.gate_at`.

        Raises:
            SinkRefused: not taken, and another try would not be either.
            SinkUnavailable: not confirmed; call again with the same answer.
        """

    async def publish_status(self, status: Status, *, ready: bool) -> None:
        """Show the state of the station; `ready` is `Intake.ready`. Called on every change and every 500 ms.

        Raises:
            SinkUnavailable: not shown; the next call carries newer news.
        """


class Adapter(Protocol):
    """Something with a wire that runs beside the others, under supervision."""

    @property
    def name(self) -> str:
        """Short name, e.g. "mqtt"."""

    async def open(self) -> None:
        """Claim what must be there at start (ports, files). Raises UsageError where it is not."""

    async def run(self, intake: Intake, commands: CommandHandler) -> None:
        """Serve until cancelled; reconnect by itself. A raised exception means a defect: it is restarted and logged."""

    async def close(self) -> None:
        """Say good-bye and let go of everything; bounded in time."""


class FrameLoader(Protocol):
    """Fetches and decodes frames. Called on worker threads."""

    def load(self, image: ImageRef | None, frame_bytes: bytes | None, *, until: float) -> Frame:
        """Return the decoded frame. Raises FrameMissing, FrameCorrupt or FrameRefused.

        until: when nobody waits for it any more, on `Clock.monotonic`; a transfer ends then.
        """


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An event that the journal has noted, and its verdict where it was answered.

    deadline_monotonic: on `Clock.monotonic`; None where the machine has started anew since.
    correlation_data: echoed with the verdict (MQTT 5), whichever run says it.
    """

    event: ImageEvent
    image: ImageRef | None
    source: str
    received_at: datetime
    deadline_at: datetime
    deadline_monotonic: float | None
    seq: int | None
    verdict_json: bytes | None
    correlation_data: bytes | None = None


@dataclass(frozen=True, slots=True)
class VerdictQuery:
    """A page of verdicts, newest first; `before` is a seq."""

    limit: int = 50
    before: int | None = None
    decision: Decision | None = None
    part_id: str | None = None


class Journal(Protocol):
    """What was accepted and what was answered.

    All calls return when the record is safe from a crash of the process, and raise JournalError where they cannot.
    """

    @property
    def fault(self) -> str | None:
        """What a person must know about the journal, in one line, e.g. that a corrupt one was set aside."""

    def reset_fault(self) -> None:
        """Forget a fault that was dealt with."""

    async def accept(self, arrival: Arrival, deadline_at: datetime) -> JournalEntry | None:
        """Note an event; return what is known of it where it was noted before, else None."""

    def secure(self, answer: Answer, arrival: Arrival) -> bool:
        """Keep a verdict from a crash of the process until `store` has stored it; tell whether that could be done.

        Never blocks. Where it is false, only `store` makes a verdict safe.
        """

    async def store(self, answered: Sequence[tuple[Answer, Arrival]]) -> None:
        """Store verdicts with their exact bytes, in one commit; the first verdict on an event stands.

        An event that could not be noted when it came is noted with its verdict.

        Raises:
            JournalConflict: a number was used before; trying again is of no use.
        """

    async def store_late(self, event_id: str, verdict_json: bytes) -> None:
        """Keep a result that came after its deadline, for the record."""

    async def confirm(self, sink: str, seq: int) -> None:
        """Note that a sink has confirmed every verdict up to and including `seq`."""

    async def confirmed(self, sink: str) -> int | None:
        """Return up to which seq a sink has confirmed all verdicts; None for a sink never heard of."""

    async def answered(self, *, after: int, limit: int) -> tuple[Sequence[JournalEntry], int | None]:
        """Return answered events with a seq above `after`, in the order of seq, and the seq that was read to.

        limit: so many records are read; what is damaged is among them, and passed over. None: to the last one.
        """

    async def unanswered(self) -> Sequence[JournalEntry]:
        """Return events that were accepted and never answered, oldest first."""

    async def last_seq(self) -> int:
        """Return a seq that no verdict so far has exceeded: the highest one, where all of them could be stored.

        Raises UsageError where another process counts on from there.
        """

    async def answered_ids(self, limit: int) -> Sequence[str]:
        """Return the event ids that were answered last, at most `limit`."""

    async def find(self, event_id: str) -> bytes | None:
        """Return the verdict bytes of an event."""

    async def page(self, query: VerdictQuery) -> Sequence[bytes]:
        """Return verdict bytes, newest first."""


class PictureSink(Protocol):
    """Takes pictures for people, off the critical path."""

    def offer(self, verdict: Verdict, inspection: Inspection | None, frame: Frame | None) -> None:
        """Take what may be worth looking at, or drop it where there is no room. Never blocks."""


class Recorder(Protocol):
    """Records parts for a replay, off the critical path."""

    def offer(self, arrival: Arrival, verdict: Verdict, encoded: bytes | None) -> None:
        """Take a part and its image file, if there is one; without it where there is no room. Never blocks."""


class Watchdog(Protocol):
    """Who restarts the service when it no longer hears that all is well."""

    def started(self) -> None:
        """Say that the service is ready."""

    def alive(self, status: Status) -> None:
        """Say that the service lives and decides; called every 500 ms while it does."""

    def stopping(self) -> None:
        """Say that the service ends because it was told to."""

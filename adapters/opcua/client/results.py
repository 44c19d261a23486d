"""Verdicts into the PLC's nodes: the payload in one Write, and when all of it is confirmed the sequence in another.

A result that could not be written is tried again when the nodes have been looked at anew (`ResultWriter.ended`). One
that is refused then, too, is passed over: the PLC takes the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog
from asyncua import ua

from adapters.opcua.client.coercion import Coercion, Result
from adapters.opcua.client.connection import PlcConnection
from adapters.opcua.client.diagnosis import Diagnosis, PlcFault, PlcUnusable, WriteRefused, status_name
from adapters.opcua.client.nodes import SINKS, PlcNode
from schemas.messages import Gate
from schemas.tags import VerdictCode
from service.errors import SinkRefused, SinkUnavailable
from service.ports import Answer, Clock

log = structlog.get_logger(__name__)

_SEQUENCE: Final = "result_seq"
_START_WORDS: Final = ("verdict", "reject")
_PAYLOAD: Final = ("score", "result_part_id", "result_trigger_id", *_START_WORDS)
"""In this order: where they do not fit into one request, what lets a part pass is the last of them."""

_NOTHING: Final = Result(seq=0, verdict=VerdictCode.NONE, reject=True)
_SPARED: Final = ("score", "result_part_id")
"""What a gate can do without."""


@dataclass(slots=True)
class _Refusal:
    """What was refused, and of which result, since one was last taken."""

    seq: int
    what: frozenset[tuple[str, PlcFault]]


class ResultMemory:
    """What is known of results beyond one connection.

    numbered: seq of the result whose number was last on its way to the PLC. refused: the last refusal, None once a
    result was taken.
    """

    def __init__(self) -> None:
        self.numbered: int | None = None
        self.refused: _Refusal | None = None


class ResultWriter:
    """Writes results to the nodes of one connection, one after the other.

    `ended` tells why no more can be written before the nodes have been looked at anew.

    Args:
        connection: an open connection.
        nodes: the mapped nodes.
        coercion: how our words are written.
        clock: tells whether a PASS may still be said.
        memory: what earlier connections knew.
    """

    def __init__(
        self,
        connection: PlcConnection,
        nodes: Mapping[str, PlcNode],
        coercion: Coercion,
        clock: Clock,
        memory: ResultMemory,
    ) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._nodes = {word: nodes[word].node_id for word in SINKS if word in nodes}
        self._standing = nodes[_SEQUENCE].value  # in the PLC, as far as is known
        self._coercion = coercion
        self._clock = clock
        self._memory = memory
        self._one_at_a_time = asyncio.Lock()  # fair: in the order of the calls, which is the order of seq
        self._beat: int | None = None
        self._passed_over: str | None = None
        self._told: set[str] = set()  # words whose refusal is in the log

    @property
    def fault(self) -> str | None:
        """Why the last result did not reach the PLC; None where it did."""
        return self.ended.result() if self.ended.done() else self._passed_over

    async def start(self) -> None:
        """Write what holds before the first result: verdict 0, reject true. Raises SinkUnavailable."""
        await self._write({word: self._coercion.result(word, _NOTHING) for word in _START_WORDS if word in self._nodes})

    async def write(self, answer: Answer) -> None:
        """Write one result, for the trigger that asked; return when every node is confirmed.

        Raises:
            SinkRefused: the PLC refused a node, also on a second look at all of them; nothing passes by this result.
            SinkUnavailable: a node was not confirmed. The sequence was not written then, or is not known to be.
        """
        async with self._one_at_a_time:
            if self.ended.done():  # those behind one that failed stay behind it
                raise SinkUnavailable(self.ended.result())
            try:
                await self._tell(answer)
            except SinkUnavailable as exc:
                is_safe = await self._take_back()
                if is_safe and isinstance(exc, WriteRefused) and self._was_refused(answer.verdict.seq, exc):
                    self._passed_over = str(exc)
                    log.error("plc_result_passed_over", seq=answer.verdict.seq, refused=str(exc))
                    raise SinkRefused(str(exc)) from exc
                # a node that does not take what it was found to take is not the node it was
                self.ended.set_result(str(exc))
                raise
            except BaseException:
                self._passed_over = None  # who tries again waits until there is no fault
                raise
            self._memory.refused = self._passed_over = None

    async def beat(self, heartbeat: int) -> None:
        """Show the heartbeat where it is mapped and has risen. Raises SinkUnavailable."""
        if "heartbeat" in self._nodes and heartbeat != self._beat:
            refused = await self._refused({"heartbeat": self._coercion.heartbeat(heartbeat)})
            self._log_once(refused)
            _give_up(refused)
            self._beat = heartbeat

    async def _tell(self, answer: Answer) -> None:
        seq = answer.verdict.seq
        if answer.repeated or seq != self._memory.numbered:
            await self._make_way(seq)
        result = self._result(answer)
        await self._write_payload(result)
        if not result.reject and answer.gate_at(self._clock.monotonic()) is not Gate.PASS:
            await self._write_payload(self._result(answer))  # it took too long: take the PASS back
        self._memory.numbered = seq
        await self._write_sequence(result)

    async def _take_back(self) -> bool:
        """Let no PASS stand beside a number that is not its own; tell whether the PLC has confirmed that."""
        if self._connection.lost.done():
            return False
        try:
            await self.start()
        except SinkUnavailable:
            return False
        return True

    def _was_refused(self, seq: int, error: WriteRefused) -> bool:
        """Note a refusal; tell whether it is the second of one result, or the same as that of the one before it."""
        before = self._memory.refused
        now = _Refusal(seq, frozenset((diagnosis.word, diagnosis.fault) for diagnosis in error.diagnoses))
        self._memory.refused = now
        return before is not None and (before.seq == now.seq or before.what == now.what)

    async def _make_way(self, seq: int) -> None:
        """Where the number of a result stands in the PLC before it is written, take it away: it waits for a change.

        So it is where the result is asked for again, or a PLC or a journal has begun to count anew. With verdict 0 and
        reject true first: who acts on any change must not find the PASS of before.
        """
        if self._coercion.result(_SEQUENCE, replace(_NOTHING, seq=seq)).Value == self._standing:
            await self.start()
            await self._write_sequence(_NOTHING)

    def _result(self, answer: Answer) -> Result:
        verdict = answer.verdict
        code = VerdictCode.of(verdict.decision)
        reject = answer.gate_at(self._clock.monotonic()) is not Gate.PASS or not answer.is_about_their_part
        if reject and code is VerdictCode.OK and "reject" not in self._nodes:
            code = VerdictCode.ERROR  # all that the PLC goes by is the verdict, and OK would let the part pass
        return Result(
            seq=verdict.seq,
            verdict=code,
            reject=reject,
            score=verdict.score,
            part_id=verdict.part_id or "",
            trigger_id=answer.asker.trigger_id or 0,
        )

    async def _write_payload(self, result: Result) -> None:
        words: list[str] = [word for word in _PAYLOAD if word in self._nodes]
        values = {word: self._coercion.result(word, result) for word in words}
        if not self._connection.writes_at_once(len(values)):
            await self.start()  # who looks between two requests must not find the PASS of before
        refused = await self._refused(values)
        spared = [diagnosis.word for diagnosis in refused]
        if refused and set(spared) <= set(_SPARED):
            # too long for the PLC's STRING, or beyond its range: no reason to keep the verdict from the gate
            log.warning("plc_value_left_out", seq=result.seq, refused=str(PlcUnusable(*refused)))
            left_out = replace(result, part_id="", score=None)
            self._log_once(await self._refused({word: self._coercion.result(word, left_out) for word in spared}))
        else:
            _give_up(refused)

    async def _write_sequence(self, result: Result) -> None:
        sequence = self._coercion.result(_SEQUENCE, result)
        await self._write({_SEQUENCE: sequence})
        self._standing = sequence.Value

    async def _write(self, values: Mapping[str, ua.Variant]) -> None:
        _give_up(await self._refused(values))

    async def _refused(self, values: Mapping[str, ua.Variant]) -> list[Diagnosis]:
        """Write `values`; return what was refused."""
        if not values:
            return []
        codes = await self._connection.write({self._nodes[word]: variant for word, variant in values.items()})
        return [
            Diagnosis(_fault_of(code), f"{values[word].Value!r}: {status_name(code)}", word)
            for word, code in zip(values, codes, strict=True)
            if not code.is_good()
        ]

    def _log_once(self, refused: Sequence[Diagnosis]) -> None:
        for diagnosis in refused:
            if diagnosis.word not in self._told:
                self._told.add(diagnosis.word)
                log.warning("plc_value_refused", refused=str(diagnosis))


def _give_up(refused: Sequence[Diagnosis]) -> None:
    if refused:
        raise WriteRefused(*refused)


def _fault_of(code: ua.StatusCode) -> PlcFault:
    name = status_name(code)
    if name in {"BadUserAccessDenied", "BadNotWritable"}:
        return PlcFault.ACCESS_DENIED
    if name == "BadTypeMismatch":
        return PlcFault.TYPE_UNSUITABLE
    return PlcFault.NODE_UNKNOWN if name == "BadNodeIdUnknown" else PlcFault.WRITE_REFUSED

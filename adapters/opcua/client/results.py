"""Verdicts into the PLC's nodes: the payload in one Write, and when all of it is confirmed the sequence in another.

A PLC that does not take the payload in one request, or has once refused a word of it, gets it in steps, each confirmed
before the next: no verdict, then what names the part, then its verdict.

A result that could not be written is tried again when the nodes have been looked at anew (`ResultWriter.ended`). One
that is refused then, too, or for what was looked at before, is passed over: the PLC takes the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog
from asyncua import ua

from adapters.opcua.client.coercion import Coercion, Result
from adapters.opcua.client.connection import PlcConnection
from adapters.opcua.client.diagnosis import (
    Diagnosis,
    PlcFault,
    PlcUnusable,
    TooManyAtOnce,
    WriteRefused,
    status_name,
)
from adapters.opcua.client.nodes import SINKS, PlcNode
from adapters.opcua.events import TriggerNumbers
from schemas.messages import Gate
from schemas.tags import VerdictCode
from service.errors import SinkRefused, SinkUnavailable
from service.ports import Answer, Clock
from service.tasks import was_cancelled

log = structlog.get_logger(__name__)

_SEQUENCE: Final = "result_seq"
_START_WORDS: Final = ("verdict", "reject")
_PART_WORDS: Final = ("score", "result_part_id", "result_trigger_id")
_NOTHING: Final = Result(seq=0, verdict=VerdictCode.NONE, reject=True)
_SPARED: Final = ("score", "result_part_id")
"""What a gate can do without."""

_LONG_GONE_S: Final = 5.0
"""No gate waits for a part whose deadline went so long ago."""

_NO_GATE: Final = (*_SPARED, "heartbeat")


class ResultMemory:
    """What is known of results beyond one look at the nodes, and one connection.

    numbered: seq of the result whose number was last on its way to the PLC. not_taken: why the PLC did not take the
    last result; None where it did. looked_for: refusals for which the nodes were looked at anew. in_steps: a word that
    a gate cannot do without was refused once. triggers: which event has a trigger's number, of those of `source`.
    """

    def __init__(self, source: str) -> None:
        self.numbered: int | None = None
        self.not_taken: str | None = None
        self.looked_for: set[tuple[str, PlcFault]] = set()
        self.in_steps = False
        self.triggers = TriggerNumbers(source)
        self._refused: int | None = None

    def taken(self) -> None:
        """Note that the PLC has taken a result."""
        self.not_taken = self._refused = None

    def is_known(self, seq: int, error: WriteRefused) -> bool:
        """Note a refusal; tell whether it is the second of one result, or another look at the nodes was in vain."""
        what = {(diagnosis.word, diagnosis.fault) for diagnosis in error.diagnoses}
        known = seq == self._refused or what <= self.looked_for
        self._refused = seq
        self.looked_for |= what
        return known


class ResultWriter:
    """Writes results to the nodes of one connection, one after the other.

    `ended` tells why no more can be written before the nodes have been looked at anew.

    Args:
        connection: an open connection.
        nodes: the mapped nodes.
        coercion: how our words are written.
        clock: tells whether a PASS may still be said.
        memory: what earlier looks and connections knew.
    """

    def __init__(
        self,
        connection: PlcConnection,
        nodes: Mapping[str, PlcNode],
        coercion: Coercion,
        clock: Clock,
        memory: ResultMemory,
    ) -> None:
        self.ended: asyncio.Future[SinkUnavailable] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._nodes = {word: nodes[word].node_id for word in SINKS if word in nodes}
        self._standing = nodes[_SEQUENCE].value  # in the PLC, as far as is known
        self._coercion = coercion
        self._clock = clock
        self._memory = memory
        self._one_at_a_time = asyncio.Lock()  # fair: in the order of the calls, which is the order of seq
        self._behind = 0  # results that wait for it
        self._took_s = 0.0  # the write that was confirmed last
        self._beat: int | None = None
        self._told: set[str] = set()  # words whose refusal is in the log

    async def start(self) -> None:
        """Write what holds before the first result: verdict 0, reject true. Raises SinkUnavailable."""
        await self._write({word: self._coercion.result(word, _NOTHING) for word in _START_WORDS if word in self._nodes})

    async def write(self, answer: Answer, *, owed: bool) -> None:
        """Write one result, for the trigger that asked; return when every node is confirmed.

        owed: the PLC asked for it. Any other is left out where the next one waits and its deadline went long ago: after
        an outage the parts that are on the line now must not wait for all of them.

        Raises:
            SinkRefused: it was left out.
            SinkRefused: the PLC refused a node, also after another look at all of them; nothing passes by this result.
            SinkUnavailable: a node was not confirmed. The sequence was not written then, or is not known to be.
        """
        self._behind += 1
        try:
            await self._one_at_a_time.acquire()
        finally:
            self._behind -= 1
        try:
            await self._write_next(answer, owed=owed)
        finally:
            self._one_at_a_time.release()

    async def _write_next(self, answer: Answer, *, owed: bool) -> None:
        if self.ended.done():  # those behind one that failed stay behind it
            raise SinkUnavailable(str(self.ended.result()))
        if self._behind and not owed and self._clock.monotonic() > answer.deadline_monotonic + _LONG_GONE_S:
            log.warning("plc_result_left_out", seq=answer.verdict.seq, reason="long past its deadline, and others wait")
            raise SinkRefused("left out: long past its deadline, and others wait")
        try:
            await self._tell(answer)
        except SinkUnavailable as exc:
            if not self._connection.lost.done():
                self._memory.not_taken = str(exc)
            is_safe = await self._take_back()
            if is_safe and isinstance(exc, WriteRefused) and self._memory.is_known(answer.verdict.seq, exc):
                log.error("plc_result_passed_over", seq=answer.verdict.seq, refused=str(exc))
                raise SinkRefused(str(exc)) from exc
            # a node that does not take what it was found to take is not the node it was
            self.ended.set_result(exc)
            raise
        except BaseException as exc:
            # a defect: it may have left a PASS beside the number of before
            if not was_cancelled() and not await self._take_back():
                self.ended.set_result(SinkUnavailable(f"{type(exc).__name__}, and the result was not taken back"))
            raise
        self._memory.taken()

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
        result = self._result(answer, self._clock.monotonic())
        await self._write_payload(result)
        if not result.reject:
            # the number makes the PASS count, and takes the PLC as long as the words did
            late_s = max(0.0, self._took_s - answer.transit_s)  # what is allowed for the way is in gate_at
            result = self._result(answer, self._clock.monotonic() + late_s)
            if result.reject:
                await self._write_payload(result)  # it would come too late: take the PASS back
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

    async def _make_way(self, seq: int) -> None:
        """Where the number of a result stands in the PLC before it is written, take it away: it waits for a change.

        So it is where the result is asked for again, or a PLC or a journal has begun to count anew. With verdict 0 and
        reject true first: who acts on any change must not find the PASS of before.
        """
        if self._coercion.result(_SEQUENCE, replace(_NOTHING, seq=seq)).Value == self._standing:
            await self.start()
            await self._write_sequence(_NOTHING)

    def _result(self, answer: Answer, monotonic: float) -> Result:
        """Return what may be said of a part at a moment."""
        verdict = answer.verdict
        code = VerdictCode.of(verdict.decision)
        is_their_part = answer.is_about_their_part and self._memory.triggers.mean(answer)
        reject = answer.gate_at(monotonic) is not Gate.PASS or not is_their_part
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
        words = [word for word in (*_PART_WORDS, *_START_WORDS) if word in self._nodes]
        if not self._memory.in_steps and self._connection.writes_at_once(len(words)):
            with contextlib.suppress(TooManyAtOnce):
                await self._write_words(words, result, whole=True)
                return
        # who looks between two requests must find neither the PASS of before, nor that of this one beside names that
        # the PLC has not taken
        await self.start()
        await self._write_words([word for word in words if word in _PART_WORDS], result)
        await self._write_words([word for word in words if word in _START_WORDS], result)

    async def _write_words(self, words: Sequence[str], result: Result, *, whole: bool = False) -> None:
        refused = await self._refused({word: self._coercion.result(word, result) for word in words}, whole=whole)
        spared = [diagnosis.word for diagnosis in refused]
        if refused and set(spared) <= set(_SPARED):
            # too long for the PLC's STRING, or beyond its range: no reason to keep the verdict from the gate
            log.warning("plc_value_left_out", seq=result.seq, refused=str(PlcUnusable(*refused)))
            left_out = replace(result, part_id="", score=None)
            kept = await self._refused({word: self._coercion.result(word, left_out) for word in spared})
            self._log_once(kept)
            if not result.reject and self._name_the_part(kept):
                _give_up(kept)  # the PASS would stand beside the part of before
        else:
            _give_up(refused)

    def _name_the_part(self, refused: Sequence[Diagnosis]) -> bool:
        """Tell whether the PLC knows by nothing but what it refused which part a result is about."""
        return "result_trigger_id" not in self._nodes and any(each.word == "result_part_id" for each in refused)

    async def _write_sequence(self, result: Result) -> None:
        sequence = self._coercion.result(_SEQUENCE, result)
        await self._write({_SEQUENCE: sequence})
        self._standing = sequence.Value

    async def _write(self, values: Mapping[str, ua.Variant]) -> None:
        _give_up(await self._refused(values))

    async def _refused(self, values: Mapping[str, ua.Variant], *, whole: bool = False) -> list[Diagnosis]:
        """Write `values`; return what was refused. Raises TooManyAtOnce where they must go `whole` and cannot."""
        if not values:
            return []
        written = {self._nodes[word]: variant for word, variant in values.items()}
        began = self._clock.monotonic()
        codes = await self._connection.write(written, whole=whole)
        self._took_s = self._clock.monotonic() - began
        refused = [
            Diagnosis(_fault_of(code), f"{values[word].Value!r}: {status_name(code)}", word)
            for word, code in zip(values, codes, strict=True)
            if not code.is_good()
        ]
        if any(diagnosis.word not in _NO_GATE for diagnosis in refused) or self._name_the_part(refused):
            self._memory.in_steps = True
        return refused

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

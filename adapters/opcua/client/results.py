"""Verdicts into the PLC's nodes: the payload in one Write, and when all of it is confirmed the sequence in another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog
from asyncua import ua

from adapters.opcua.client.coercion import Coercion, Result
from adapters.opcua.client.connection import PlcConnection
from adapters.opcua.client.diagnosis import Diagnosis, PlcFault, PlcUnusable, status_name
from adapters.opcua.client.nodes import SINKS, PlcNode
from schemas.messages import Gate
from schemas.tags import VerdictCode
from service.ports import Answer, Clock

log = structlog.get_logger(__name__)

_SEQUENCE: Final = "result_seq"
_PAYLOAD: Final = tuple(word for word in SINKS if word not in {_SEQUENCE, "heartbeat"})
_START_WORDS: Final = ("verdict", "reject")
_NOTHING: Final = Result(seq=0, verdict=VerdictCode.NONE, reject=True)
_SPARED: Final = ("score", "result_part_id")
"""What a gate can do without."""


class ResultWriter:
    """Writes results to the nodes of one connection, one after the other.

    Args:
        connection: an open connection.
        nodes: the mapped nodes.
        coercion: how our words are written.
        clock: tells whether a PASS may still be said.
    """

    def __init__(
        self, connection: PlcConnection, nodes: Mapping[str, PlcNode], coercion: Coercion, clock: Clock
    ) -> None:
        self._connection = connection
        self._nodes = {word: nodes[word].node_id for word in SINKS if word in nodes}
        self._standing = nodes[_SEQUENCE].value  # in the PLC, as far as is known
        self._coercion = coercion
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()  # fair: in the order of the calls, which is the order of seq
        self._beat: int | None = None

    async def start(self) -> None:
        """Write what holds before the first result: verdict 0, reject true. Raises SinkUnavailable."""
        await self._write({word: self._coercion.result(word, _NOTHING) for word in _START_WORDS if word in self._nodes})

    async def write(self, answer: Answer) -> None:
        """Write one result, for the trigger that asked; return when every node is confirmed.

        Raises:
            SinkUnavailable: a node was not confirmed. The sequence was not written then, or is not known to be.
        """
        async with self._one_at_a_time:
            if answer.repeated:
                await self._make_way(answer.verdict.seq)
            result = self._result(answer)
            await self._write_payload(result)
            if not result.reject and answer.gate_at(self._clock.monotonic()) is not Gate.PASS:
                await self._write_payload(self._result(answer))  # it took too long: take the PASS back
            await self._write_sequence(result)

    async def beat(self, heartbeat: int) -> None:
        """Show the heartbeat where it is mapped and has risen. Raises SinkUnavailable."""
        if "heartbeat" in self._nodes and heartbeat != self._beat:
            await self._write({"heartbeat": self._coercion.heartbeat(heartbeat)})
            self._beat = heartbeat

    async def _make_way(self, seq: int) -> None:
        """Where the result that is asked for again stands in the PLC, take it away: it waits for a change of `seq`.

        With verdict 0 and reject true first: who acts on any change must not find the PASS of before.
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
        words = [word for word in _PAYLOAD if word in self._nodes]
        refused = await self._refused({word: self._coercion.result(word, result) for word in words})
        spared = [diagnosis.word for diagnosis in refused]
        if refused and set(spared) <= set(_SPARED):
            # too long for the PLC's STRING, or beyond its range: no reason to keep the verdict from the gate
            log.warning("plc_value_left_out", seq=result.seq, refused=str(PlcUnusable(*refused)))
            left_out = replace(result, part_id="", score=None)
            refused = await self._refused({word: self._coercion.result(word, left_out) for word in spared})
        self._give_up(refused)

    async def _write_sequence(self, result: Result) -> None:
        sequence = self._coercion.result(_SEQUENCE, result)
        await self._write({_SEQUENCE: sequence})
        self._standing = sequence.Value

    async def _write(self, values: Mapping[str, ua.Variant]) -> None:
        self._give_up(await self._refused(values))

    async def _refused(self, values: Mapping[str, ua.Variant]) -> list[Diagnosis]:
        """Write `values` in one request; return what was refused."""
        if not values:
            return []
        codes = await self._connection.write({self._nodes[word]: variant for word, variant in values.items()})
        return [
            Diagnosis(_fault_of(code), f"{values[word].Value!r}: {status_name(code)}", word)
            for word, code in zip(values, codes, strict=True)
            if not code.is_good()
        ]

    def _give_up(self, refused: Sequence[Diagnosis]) -> None:
        if refused:
            # a node that does not take what it was found to take is not the node it was: look at all of them again
            self._connection.abort(refused[0])
            raise PlcUnusable(*refused)


def _fault_of(code: ua.StatusCode) -> PlcFault:
    name = status_name(code)
    if name in {"BadUserAccessDenied", "BadNotWritable"}:
        return PlcFault.ACCESS_DENIED
    if name == "BadTypeMismatch":
        return PlcFault.TYPE_UNSUITABLE
    return PlcFault.NODE_UNKNOWN if name == "BadNodeIdUnknown" else PlcFault.WRITE_REFUSED

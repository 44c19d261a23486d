"""Between our words and the types that a PLC declares for them; what cannot be said in a type is refused beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from asyncua import ua

from adapters.opcua.client.diagnosis import Diagnosis, PlcFault, PlcUnusable
from adapters.opcua.client.nodes import PlcNode
from schemas.messages import Gate
from schemas.tags import VerdictCode

NO_SCORE: Final = -1.0
"""A score is a distance, never negative. Not NaN: comparing with one stops some PLCs."""

_INTEGERS: Final = {
    ua.VariantType.SByte: range(-(2**7), 2**7),
    ua.VariantType.Byte: range(2**8),
    ua.VariantType.Int16: range(-(2**15), 2**15),
    ua.VariantType.UInt16: range(2**16),
    ua.VariantType.Int32: range(-(2**31), 2**31),
    ua.VariantType.UInt32: range(2**32),
    ua.VariantType.Int64: range(-(2**63), 2**63),
    ua.VariantType.UInt64: range(2**64),
}
_BOOLEAN, _STRING = ua.VariantType.Boolean, ua.VariantType.String
_FLOAT, _DOUBLE = ua.VariantType.Float, ua.VariantType.Double
_LARGEST_FLOAT: Final = 3.4e38
_TRIGGERS: Final = range(2**32)

PlcValue: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Result:
    """One result in our words; `seq` 0 is none. `trigger_id` and `part_id` are 0 and "" where the event had none."""

    seq: int
    verdict: VerdictCode
    reject: bool
    score: float | None = None
    part_id: str = ""
    trigger_id: int = 0


Encode: TypeAlias = Callable[[Result], PlcValue]


class _Unsuitable(ValueError):
    """A type that cannot hold every value of a word."""


class Coercion:
    """How every mapped word is read or written on one server.

    Args:
        nodes: the mapped nodes with their types.

    Raises:
        PlcUnusable: with a diagnosis for each type that cannot hold its word.
    """

    def __init__(self, nodes: Mapping[str, PlcNode]) -> None:
        self._types = {word: node.type for word, node in nodes.items()}
        wrong: list[Diagnosis] = []
        self._encode: dict[str, Encode] = {}
        for word, kind in self._types.items():
            try:
                if word in _ENCODERS:
                    self._encode[word] = _ENCODERS[word](kind, self._types)
                elif word == "heartbeat":
                    _check_heartbeat(kind)
                else:
                    _check_source(word, kind)
            except _Unsuitable as exc:
                wrong.append(Diagnosis(PlcFault.TYPE_UNSUITABLE, f"{kind.name}: {exc}", word))
        if wrong:
            raise PlcUnusable(*wrong)

    def trigger(self, value: object) -> int:
        """Return a trigger as the UInt32 that the contract speaks of: a negative counter goes on from 2^31."""
        return int(value) % len(_TRIGGERS) if isinstance(value, int) else 0

    def answered(self, value: object) -> int | None:
        """Return the trigger that `result_trigger_id` names, however the PLC keeps it; None where it names none."""
        try:
            return self.trigger(int(value)) if isinstance(value, int | float | str) else None
        except ValueError:
            return None

    def result(self, word: str, result: Result) -> ua.Variant:
        """Return what is written to the node of `word` for `result`."""
        return ua.Variant(self._encode[word](result), self._types[word])

    def heartbeat(self, beat: int) -> ua.Variant:
        """Return the heartbeat as a counter that wraps, or as a Boolean that flips."""
        kind = self._types["heartbeat"]
        if kind is _BOOLEAN:
            return ua.Variant(bool(beat & 1), kind)
        if kind in _INTEGERS:
            return ua.Variant(beat % _INTEGERS[kind].stop, kind)
        return ua.Variant(float(beat % 2**24), kind)  # a Float counts whole numbers up to there


def _check_heartbeat(kind: ua.VariantType) -> None:
    if kind not in {_BOOLEAN, _FLOAT, _DOUBLE, *_INTEGERS}:
        raise _Unsuitable("can neither rise nor flip")


def _check_source(word: str, kind: ua.VariantType) -> None:
    if word == "trigger":
        counts = kind in _INTEGERS and _INTEGERS[kind].stop <= len(_TRIGGERS)
        if kind is not _BOOLEAN and not counts:
            raise _Unsuitable("a trigger is a Boolean or a counter of at most 32 bits")
    elif kind is not _STRING and not (word == "part_id" and kind in _INTEGERS):
        raise _Unsuitable("a String is needed" + (", or an integer" if word == "part_id" else ""))


def _verdict(kind: ua.VariantType, _: Mapping[str, ua.VariantType]) -> Encode:
    if kind in _INTEGERS:
        return lambda result: int(result.verdict)
    if kind in {_FLOAT, _DOUBLE}:
        return lambda result: float(result.verdict)
    if kind is _STRING:
        return lambda result: result.verdict.name
    raise _Unsuitable("cannot hold 0 none, 1 OK, 2 DAMAGED, 3 ERROR")


def _reject(kind: ua.VariantType, _: Mapping[str, ua.VariantType]) -> Encode:
    if kind is _BOOLEAN:
        return lambda result: result.reject
    if kind in _INTEGERS:
        return lambda result: int(result.reject)
    if kind in {_FLOAT, _DOUBLE}:
        return lambda result: float(result.reject)
    if kind is _STRING:
        return lambda result: Gate.REJECT.value if result.reject else Gate.PASS.value
    raise _Unsuitable("cannot hold true and false")


def _score(kind: ua.VariantType, _: Mapping[str, ua.VariantType]) -> Encode:
    if kind is _DOUBLE:
        return lambda result: NO_SCORE if result.score is None else result.score
    if kind is _FLOAT:
        return lambda result: NO_SCORE if result.score is None else min(result.score, _LARGEST_FLOAT)
    if kind is _STRING:
        return lambda result: "" if result.score is None else f"{result.score:.6g}"
    raise _Unsuitable("a score has a fraction; Float, Double or String can hold it")


def _part_id(kind: ua.VariantType, types: Mapping[str, ua.VariantType]) -> Encode:
    if kind is _STRING:
        return lambda result: result.part_id
    allowed, source = _INTEGERS.get(kind), _INTEGERS.get(types.get("part_id", _STRING))
    if allowed is None or source is None or not _holds(allowed, source):
        raise _Unsuitable("a String is needed, or an integer that holds every value of an integer part_id")
    # an event that came another way may have any text for its part
    return lambda result: _whole(result.part_id, allowed)


def _trigger_id(kind: ua.VariantType, types: Mapping[str, ua.VariantType]) -> Encode:
    source = _INTEGERS.get(types["trigger"], range(2))

    def as_given(result: Result) -> int:
        # the trigger's own reading of the UInt32, see Coercion.trigger
        negative = source.start < 0 and result.trigger_id >= len(_TRIGGERS) // 2
        return result.trigger_id - len(_TRIGGERS) if negative else result.trigger_id

    if kind in _INTEGERS and _holds(_INTEGERS[kind], source):
        allowed = _INTEGERS[kind]
        # an event that came another way may have any UInt32: 0 is never a trigger
        return lambda result: as_given(result) if as_given(result) in allowed else 0
    if kind is _DOUBLE:
        return lambda result: float(as_given(result))
    if kind is _STRING:
        return lambda result: str(as_given(result))
    raise _Unsuitable(f"cannot hold every trigger of type {types['trigger'].name}")


def _seq(kind: ua.VariantType, _: Mapping[str, ua.VariantType]) -> Encode:
    if kind in _INTEGERS:
        largest = min(_INTEGERS[kind].stop, len(_TRIGGERS)) - 1
        return lambda result: _wrapped(result.seq, largest)
    if kind is _DOUBLE:
        return lambda result: float(_wrapped(result.seq, len(_TRIGGERS) - 1))
    if kind is _STRING:
        return lambda result: str(_wrapped(result.seq, len(_TRIGGERS) - 1))
    raise _Unsuitable("cannot count results")


def _wrapped(seq: int, largest: int) -> int:
    return (seq - 1) % largest + 1 if seq else 0  # skipped: it means no result


_ENCODERS: Final[dict[str, Callable[[ua.VariantType, Mapping[str, ua.VariantType]], Encode]]] = {
    "verdict": _verdict,
    "reject": _reject,
    "score": _score,
    "result_part_id": _part_id,
    "result_trigger_id": _trigger_id,
    "result_seq": _seq,
}


def _holds(wide: range, narrow: range) -> bool:
    return wide.start <= narrow.start and narrow.stop <= wide.stop


def _whole(text: str, allowed: range) -> int:
    number = int(text) if text.removeprefix("-").isdecimal() else 0
    return number if number in allowed else 0

"""Our words in the types that a PLC declares: what fits is exact, what does not is refused before the first part."""

from __future__ import annotations

from dataclasses import replace

import pytest
from asyncua import ua
from asyncua.ua.ua_binary import variant_from_binary, variant_to_binary
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.client.coercion import NO_SCORE, Coercion, Result
from adapters.opcua.client.diagnosis import PlcFault, PlcUnusable
from adapters.opcua.client.nodes import PlcNode
from schemas.tags import VerdictCode

T = ua.VariantType
INTEGERS = [T.SByte, T.Byte, T.Int16, T.UInt16, T.Int32, T.UInt32, T.Int64, T.UInt64]
TRIGGERS = [T.Boolean, T.SByte, T.Byte, T.Int16, T.UInt16, T.Int32, T.UInt32]
RESULT = Result(seq=1, verdict=VerdictCode.DAMAGED, reject=True, score=1.5, part_id="C-1", trigger_id=7)


def coercion(**types: ua.VariantType) -> Coercion:
    """Return the coercion for these types; trigger and result_seq are UInt32 unless said otherwise."""
    declared = {"trigger": T.UInt32, "result_seq": T.UInt32} | types
    return Coercion({word: PlcNode(word, ua.NodeId(), kind, None) for word, kind in declared.items()})


def on_the_wire(variant: ua.Variant) -> object:
    """Return what the PLC decodes."""
    decoded = variant_from_binary(ua.utils.Buffer(variant_to_binary(variant)))
    assert decoded.VariantType is variant.VariantType
    value: object = decoded.Value
    return value


@pytest.mark.parametrize("kind", [*INTEGERS, T.Float, T.Double], ids=lambda kind: kind.name)
@pytest.mark.parametrize("code", list(VerdictCode))
def test_verdict_is_its_number_in_any_number_type(kind: ua.VariantType, code: VerdictCode) -> None:
    """0 none, 1 OK, 2 DAMAGED, 3 ERROR, also in an INT or a REAL."""
    assert on_the_wire(coercion(verdict=kind).result("verdict", replace(RESULT, verdict=code))) == code.value


@pytest.mark.parametrize(
    ("word", "kind", "shown"),
    [
        ("verdict", T.String, "DAMAGED"),
        ("reject", T.Boolean, True),
        ("reject", T.Byte, 1),
        ("reject", T.Float, 1.0),
        ("reject", T.String, "REJECT"),
        ("score", T.Float, 1.5),
        ("score", T.Double, 1.5),
        ("score", T.String, "1.5"),
        ("result_part_id", T.String, "C-1"),
        ("result_trigger_id", T.Double, 7.0),
        ("result_trigger_id", T.String, "7"),
        ("result_seq", T.Double, 1.0),
        ("result_seq", T.String, "1"),
    ],
    ids=str,
)
def test_words_in_other_types(word: str, kind: ua.VariantType, shown: object) -> None:
    """Each word in each type that can hold it."""
    assert on_the_wire(coercion(**{word: kind}).result(word, RESULT)) == shown


@pytest.mark.parametrize("kind", [T.Float, T.Double])
def test_no_score_is_no_number_that_a_score_can_be(kind: ua.VariantType) -> None:
    """Neither NaN, which stops some PLCs, nor the score of the part before."""
    assert on_the_wire(coercion(score=kind).result("score", replace(RESULT, score=None))) == NO_SCORE
    assert on_the_wire(coercion(score=T.String).result("score", replace(RESULT, score=None))) == ""


def test_score_beyond_a_real_is_its_largest() -> None:
    """A score that a REAL cannot hold stays a large one."""
    assert on_the_wire(coercion(score=T.Float).result("score", replace(RESULT, score=1e300))) > 1e38  # type: ignore[operator]


@given(st.sampled_from(INTEGERS), st.integers(1, 2**70))
def test_sequence_rises_and_wraps_within_its_type_and_skips_zero(kind: ua.VariantType, seq: int) -> None:
    """0 would mean no result yet; neighbours always differ, or the PLC would miss one."""
    words = coercion(result_seq=kind)
    first, second = [words.result("result_seq", replace(RESULT, seq=number)) for number in (seq, seq + 1)]
    assert on_the_wire(first) == first.Value > 0
    assert second.Value in (first.Value + 1, 1)
    assert second.Value != first.Value


@pytest.mark.parametrize(("kind", "shown"), [*((kind, 0) for kind in INTEGERS), (T.Double, 0.0), (T.String, "0")])
def test_no_result_is_zero(kind: ua.VariantType, shown: object) -> None:
    """No result has it, so every result is a change."""
    assert on_the_wire(coercion(result_seq=kind).result("result_seq", replace(RESULT, seq=0))) == shown


@given(st.data(), st.sampled_from(TRIGGERS), st.sampled_from([*INTEGERS, T.Double, T.String]))
def test_trigger_comes_back_as_it_was_given(
    data: st.DataObject, kind: ua.VariantType, result_kind: ua.VariantType
) -> None:
    """Whatever the PLC counts with, negative numbers included, it finds its own number beside the result."""
    ranges = {T.Boolean: (0, 1)} | {
        each: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        for each, bits, signed in [
            (T.SByte, 8, True), (T.Byte, 8, False), (T.Int16, 16, True), (T.UInt16, 16, False),
            (T.Int32, 32, True), (T.UInt32, 32, False), (T.Int64, 64, True), (T.UInt64, 64, False),
        ]
    }  # fmt: skip
    low, high = ranges[kind]
    given_value = data.draw(st.integers(low, high))
    fits = result_kind not in ranges or (ranges[result_kind][0] <= low and high <= ranges[result_kind][1])
    if not fits:
        with pytest.raises(PlcUnusable, match="type_unsuitable: result_trigger_id"):
            coercion(trigger=kind, result_trigger_id=result_kind)
        return
    words = coercion(trigger=kind, result_trigger_id=result_kind)
    trigger_id = words.trigger(bool(given_value) if kind is T.Boolean else given_value)
    assert 0 <= trigger_id < 2**32
    shown = on_the_wire(words.result("result_trigger_id", replace(RESULT, trigger_id=trigger_id)))
    assert float(shown) == given_value  # type: ignore[arg-type] # a number or its text
    assert words.answered(shown) == trigger_id


@pytest.mark.parametrize("trigger_id", [300, 2**32 - 1])
def test_trigger_id_of_another_way_in_that_does_not_fit_is_zero(trigger_id: int) -> None:
    """An MQTT event may name any UInt32: better none than the number of another part."""
    words = coercion(trigger=T.Byte, result_trigger_id=T.Byte)
    assert on_the_wire(words.result("result_trigger_id", replace(RESULT, trigger_id=trigger_id))) == 0


@pytest.mark.parametrize(("text", "shown"), [("65535", 65535), ("65536", 0), ("-1", 0), ("C-1", 0), ("", 0), ("٣", 3)])
def test_integer_part_id_comes_back_and_a_text_is_zero(text: str, shown: int) -> None:
    """A PLC that counts its parts finds the number again."""
    words = coercion(part_id=T.UInt16, result_part_id=T.UInt16)
    assert on_the_wire(words.result("result_part_id", replace(RESULT, part_id=text))) == shown


def test_heartbeat_rises_or_flips() -> None:
    """A counter wraps within its type, a bit flips with every beat."""
    assert [on_the_wire(coercion(heartbeat=T.Byte).heartbeat(beat)) for beat in (255, 256)] == [255, 0]
    assert [on_the_wire(coercion(heartbeat=T.Int16).heartbeat(beat)) for beat in (32767, 32768)] == [32767, 0]
    assert [on_the_wire(coercion(heartbeat=T.Boolean).heartbeat(beat)) for beat in (1, 2)] == [True, False]
    assert on_the_wire(coercion(heartbeat=T.Float).heartbeat(2**24 + 3)) == 3.0


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("trigger", T.String),
        ("trigger", T.Float),
        ("trigger", T.Int64),
        ("trigger", T.UInt64),
        ("trigger", T.DateTime),
        ("part_id", T.Double),
        ("image_uri", T.UInt32),
        ("event_id", T.Guid),
        ("verdict", T.Boolean),
        ("verdict", T.ByteString),
        ("reject", T.LocalizedText),
        ("score", T.Int32),
        ("score", T.Boolean),
        ("result_part_id", T.UInt32),
        ("result_trigger_id", T.Int32),
        ("result_trigger_id", T.Float),
        ("result_seq", T.Boolean),
        ("result_seq", T.Float),
        ("heartbeat", T.String),
        ("heartbeat", T.ExtensionObject),
    ],
    ids=str,
)
def test_type_that_cannot_hold_its_word_is_refused_by_name(word: str, kind: ua.VariantType) -> None:
    """One line that names fault, key and type, before the first part comes."""
    with pytest.raises(PlcUnusable) as caught:
        coercion(**{word: kind})
    assert any((d.fault, d.word) == (PlcFault.TYPE_UNSUITABLE, word) for d in caught.value.diagnoses)
    assert f"type_unsuitable: {word}: {kind.name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_unsuitable_type_is_named_at_once() -> None:
    """An integrator corrects the mapping once, not once a word."""
    with pytest.raises(PlcUnusable) as caught:
        coercion(verdict=T.Boolean, score=T.Int16, heartbeat=T.String)
    assert {diagnosis.word for diagnosis in caught.value.diagnoses} == {"verdict", "score", "heartbeat"}

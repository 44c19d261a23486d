"""The wire contract's messages: exact when written, tolerant when read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.messages import (
    COMMAND_MEANINGS,
    FAULT_MEANINGS,
    MESSAGES,
    Box,
    Command,
    CommandName,
    Decision,
    FaultCode,
    Gate,
    GateCommand,
    ImageReady,
    JudgedImage,
    ModelRef,
    Reason,
    StagesMs,
    Status,
    Verdict,
)
from schemas.tags import result_seq

EVENT = {
    "schema": "cangate/image-ready/1",
    "event_id": "7f0c",
    "part_id": "C-000123",
    "trigger_id": 123,
    "captured_at": "2026-01-31T08:00:00.000Z",
    "deadline_ms": 500,
    "image": {"uri": "file:///data/frames/000123.png"},
    "simulated": False,
}
NOW = datetime(2026, 1, 31, 8, 0, 0, 123_456, UTC)


def verdict(**changes: object) -> Verdict:
    values: dict[str, object] = {
        "station": "line1",
        "event_id": "7f0c",
        "part_id": "C-000123",
        "trigger_id": 123,
        "seq": 4711,
        "decision": Decision.DAMAGED,
        "gate": Gate.REJECT,
        "reason": Reason.SCORE_AT_OR_ABOVE_THRESHOLD,
        "uncertain": False,
        "score": 0.812,
        "threshold": 0.736,
        "boxes": (Box(x1=612, y1=330, x2=668, y2=402, score=1.31),),
        "image": JudgedImage(width=1920, height=1440, uri="file:///f.png"),
        "model": ModelRef(name="canister", version="3", sha256="ab"),
        "captured_at": NOW,
        "received_at": NOW,
        "decided_at": NOW,
        "latency_ms": 41.7,
        "stages_ms": StagesMs(load=6.1, roi=12.0, normalize=2.2, embed=15.3, score=1.9, boxes=0.4),
    }
    return Verdict.model_validate(values | changes)


def test_image_ready_reads_the_contracts_example() -> None:
    """The example of the contract is valid, and fields of the future are ignored."""
    event = ImageReady.model_validate_json(json.dumps({**EVENT, "camera": "left", "exposure_us": 900}))
    assert (event.event_id, event.part_id, event.trigger_id, event.deadline_ms) == ("7f0c", "C-000123", 123, 500)
    assert event.captured_at == datetime(2026, 1, 31, 8, tzinfo=UTC)


def test_image_ready_needs_only_id_and_image() -> None:
    """Everything that the contract gives a default for may be missing."""
    event = ImageReady.model_validate_json(b'{"event_id":"e","image":{"uri":"file:///a.png"}}')
    assert (event.part_id, event.trigger_id, event.captured_at, event.deadline_ms) == (None, None, None, None)


def test_every_command_and_fault_is_explained() -> None:
    """In the interface reference, which is all that an integrator has."""
    assert set(COMMAND_MEANINGS) == set(CommandName)
    assert set(FAULT_MEANINGS) == set(FaultCode)


def test_whole_numbers_may_be_written_with_a_fraction() -> None:
    """JSON and JSON Schema know no difference between 500 and 500.0, and some PLC libraries write all numbers so."""
    event = ImageReady.model_validate_json(json.dumps({**EVENT, "trigger_id": 7.0, "deadline_ms": 500.0}))
    assert (event.trigger_id, event.deadline_ms) == (7, 500)
    assert b'"trigger_id":7,' in event.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "cangate/image-ready/2"},
        {"event_id": ""},
        {"event_id": 5},
        {"event_id": "a\u0000b"},
        {"event_id": "e" * 257},
        {"part_id": 5},
        {"trigger_id": -1},
        {"trigger_id": 2**32},
        {"trigger_id": 1.5},
        {"trigger_id": "7"},
        {"trigger_id": True},
        {"deadline_ms": 0},
        {"deadline_ms": -5},
        {"deadline_ms": 3_600_001},
        {"deadline_ms": 1.5},
        {"deadline_ms": "500"},
        {"captured_at": "yesterday"},
        {"captured_at": "2026-01-31T08:00:00"},
        {"image": None},
        {"image": {}},
        {"image": {"uri": ""}},
        {"image": {"uri": "file:///a.png", "sha256": "xyz"}},
        {"simulated": "yes"},
    ],
    ids=str,
)
def test_image_ready_refuses_what_is_not_valid(change: dict[str, object]) -> None:
    """Types are exact and ranges are checked."""
    with pytest.raises(ValidationError):
        ImageReady.model_validate_json(json.dumps(EVENT | change))


def test_image_ready_keeps_time_in_utc() -> None:
    """Any offset is read; inside and on the wire it is UTC with `Z`."""
    event = ImageReady.model_validate_json(json.dumps({**EVENT, "captured_at": "2026-01-31T10:00:00.5+02:00"}))
    assert event.captured_at == datetime(2026, 1, 31, 8, 0, 0, 500_000, UTC)
    assert b'"captured_at":"2026-01-31T08:00:00.500Z"' in event.to_json()


def test_verdict_writes_the_contracts_fields() -> None:
    """Field by field the JSON of the contract's example."""
    written = json.loads(verdict().to_json())
    assert list(written) == [
        *("schema", "station", "event_id", "part_id", "trigger_id", "seq", "decision", "gate", "reason", "uncertain"),
        *("score", "threshold", "boxes", "image", "model", "captured_at", "received_at", "decided_at", "latency_ms"),
        *("stages_ms", "simulated", "replayed", "late"),
    ]
    assert written["schema"] == "cangate/verdict/1"
    assert written["boxes"] == [{"x1": 612, "y1": 330, "x2": 668, "y2": 402, "score": 1.31}]
    assert written["decided_at"] == "2026-01-31T08:00:00.123Z"
    assert list(written["stages_ms"]) == ["load", "roi", "normalize", "embed", "score", "boxes"]


def test_verdict_leaves_out_stages_that_did_not_run() -> None:
    """An ERROR verdict carries the stages that ran, and null for what there is not."""
    error = verdict(
        decision=Decision.ERROR,
        reason=Reason.ROI_NOT_FOUND,
        score=None,
        threshold=None,
        boxes=(),
        model=None,
        image=None,
        stages_ms=StagesMs(load=5.0),
    )
    written = json.loads(error.to_json())
    assert written["stages_ms"] == {"load": 5.0}
    assert (written["score"], written["threshold"], written["image"], written["model"]) == (None, None, None, None)


@pytest.mark.parametrize("missing", ["score", "threshold", "image", "model"])
@pytest.mark.parametrize("decision", [Decision.OK, Decision.DAMAGED])
def test_verdict_that_judges_must_be_complete(missing: str, decision: Decision) -> None:
    """Only an ERROR may lack score, threshold, image or model."""
    with pytest.raises(ValidationError, match=missing):
        verdict(decision=decision, **{missing: None})


def test_verdict_refuses_scores_that_are_no_number() -> None:
    """NaN and infinity are no scores and no JSON."""
    for score in (float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            verdict(score=score)


@given(
    st.builds(
        verdict,
        score=st.floats(0, 2),
        event_id=st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50),
        seq=st.integers(1, 2**40),
        captured_at=st.none()
        | st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])).filter(
            lambda moment: 1900 < moment.year < 9000
        ),
    )
)
def test_verdict_survives_the_wire(written: Verdict) -> None:
    """What was written is read back as the same verdict, to the millisecond."""
    read = Verdict.model_validate_json(written.to_json())
    assert read.to_json() == written.to_json()
    assert read.score == written.score


def test_gate_command_repeats_the_verdict_in_short() -> None:
    """The gate command carries exactly the contract's fields."""
    assert json.loads(GateCommand.of(verdict()).to_json()) == {
        "schema": "cangate/gate/1",
        "station": "line1",
        "event_id": "7f0c",
        "part_id": "C-000123",
        "trigger_id": 123,
        "seq": 4711,
        "gate": "REJECT",
        "decision": "DAMAGED",
    }


def test_command_needs_a_known_name() -> None:
    """An unknown command is invalid, arguments are free."""
    assert Command.model_validate_json(b'{"command":"ping"}').args == {}
    with pytest.raises(ValidationError):
        Command.model_validate_json(b'{"command":"format_disk"}')


@pytest.mark.parametrize(("x1", "y1", "x2", "y2"), [(5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9), (-1, 0, 5, 5)])
def test_box_has_an_area(x1: int, y1: int, x2: int, y2: int) -> None:
    """Corners are ordered and not negative; x2 and y2 are exclusive."""
    with pytest.raises(ValidationError):
        Box(x1=x1, y1=y1, x2=x2, y2=y2, score=1.0)


@pytest.mark.parametrize(
    ("seq", "tag"), [(1, 1), (2**32 - 1, 2**32 - 1), (2**32, 1), (2**32 + 1, 2), (2 * (2**32 - 1), 2**32 - 1)]
)
def test_result_seq_wraps_without_zero(seq: int, tag: int) -> None:
    """ResultSeq is a UInt32 that never becomes 0 again."""
    assert result_seq(seq) == tag


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_describe_themselves(message: type[Status]) -> None:
    """Every message has a JSON Schema that names its own identifier."""
    schema = message.model_json_schema(mode="serialization")
    assert schema["properties"]["schema"]["const"] == message.model_fields["schema_"].default

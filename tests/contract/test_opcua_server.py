"""The OPC UA server, seen by asyncua's client: contract sections 3 and 8."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.subscription import DataChangeEvent

from adapters.clock import SystemClock
from adapters.opcua.server.adapter import OpcUaServerAdapter
from adapters.simulation.broker import free_port
from schemas.messages import Box, Decision, Fault, Gate, ImageEvent, Reason, StationState, Verdict
from schemas.settings import OpcUaServerSettings
from schemas.tags import NAMESPACE_URI, Access, Tag, TagType
from service.errors import SinkUnavailable, UsageError
from service.ports import Arrival
from tests.support.memory_journal import MemoryJournal
from tests.support.opcua import STATION, ServedStation, answer, plain_client, running, status, tag_node, verdict

DATA_TYPES = {  # OPC 10000-6, 5.1.2
    TagType.BOOLEAN: "i=1",
    TagType.UINT16: "i=5",
    TagType.UINT32: "i=7",
    TagType.DOUBLE: "i=11",
    TagType.STRING: "i=12",
    TagType.INT32_ARRAY: "i=6",
    TagType.STRING_ARRAY: "i=12",
}
pytestmark = pytest.mark.asyncio(loop_scope="module")
ATTRIBUTES = (
    ua.AttributeIds.DataType,
    ua.AttributeIds.ValueRank,
    ua.AttributeIds.ArrayDimensions,
    ua.AttributeIds.UserAccessLevel,
    ua.AttributeIds.Description,
)
READ, READ_WRITE = 1, 3


def held(value: ua.DataValue) -> Any:
    assert value.Value is not None
    return value.Value.Value


async def test_tags_have_the_types_access_and_start_values_of_the_contract(station: ServedStation) -> None:
    """Before the first result a PLC reads Verdict 0, Reject true, and Bad without a value where there is none."""
    assert (await station.client.get_namespace_array())[:2] == ["http://opcfoundation.org/UA/", "urn:cangate"]
    parent = await station.client.nodes.objects.get_child(
        [f"{station.namespace}:Cangate", f"{station.namespace}:line1"]
    )
    assert {(await node.read_browse_name()).Name for node in await parent.get_children()} == {tag.name for tag in Tag}
    for tag in Tag:
        value = await station.node(tag).read_data_value(raise_on_bad_status=False)
        data_type, rank, dimensions, access, description = [
            held(read) for read in await station.node(tag).read_attributes(ATTRIBUTES)
        ]
        is_array = tag.spec.type in {TagType.INT32_ARRAY, TagType.STRING_ARRAY}
        assert data_type.to_string() == DATA_TYPES[tag.spec.type], tag
        assert rank == (1 if is_array else -1), tag
        assert dimensions == ({Tag.Boxes: [0], Tag.Results: [8]}[tag] if is_array else None), tag
        assert access == (READ_WRITE if tag.spec.access is Access.PLC_WRITES else READ), tag
        assert description.Text == tag.spec.meaning
        assert value.SourceTimestamp is not None, tag
        assert value.StatusCode is not None
        if tag.spec.start is None:
            assert (value.StatusCode.is_bad(), value.Value) == (True, ua.Variant()), tag
        elif tag not in {Tag.Ready, Tag.Heartbeat}:  # the fixture has shown Ready
            start = list(tag.spec.start) if isinstance(tag.spec.start, tuple) else tag.spec.start
            assert (value.StatusCode.is_good(), held(value)) == (True, start), tag


async def test_trigger_becomes_an_event_and_its_result_comes_back(station: ServedStation) -> None:
    """From trigger until result the tags say reject and not valid; then they say what was found."""
    texts: dict[Tag, int | str] = {
        Tag.TriggerPartId: "C-7",
        Tag.TriggerImageUri: "file:///7.png",
        Tag.TriggerEventId: "e7",
    }
    await station.write(texts)
    await station.write({Tag.Trigger: 7})
    arrival = await station.arrival()
    event = arrival.event
    assert (event.event_id, event.part_id, event.trigger_id, event.captured_at) == ("e7", "C-7", 7, None)
    assert arrival.image is not None
    assert arrival.image.uri == "file:///7.png"
    assert arrival.refusal is None
    waiting = (Tag.TriggerAck, Tag.Busy, Tag.ResultValid, Tag.Verdict, Tag.Reject)
    assert await station.read(*waiting) == [7, True, False, 0, True]

    said = verdict(4711, event_id="e7", part_id="C-7", trigger_id=7)
    await station.adapter.publish(answer(said, arrival))
    result = (Tag.ResultSeq, Tag.ResultEventId, Tag.ResultPartId, Tag.ResultTriggerId)
    assert await station.read(*result) == [4711, "e7", "C-7", 7]
    assert await station.read(*waiting) == [7, False, True, 1, False]
    seen = await station.read(Tag.Score, Tag.Threshold, Tag.Reason, Tag.ModelVersion, Tag.DeadlineMissed, Tag.Results)
    assert seen == [0.5, 0.75, "score_below_threshold", "canister@3", False, [said.to_json().decode()]]
    latency_ms = (await station.read(Tag.LatencyMs))[0]
    assert isinstance(latency_ms, float)
    assert latency_ms >= said.latency_ms


async def test_results_of_every_decision_show_what_they_have_and_bad_where_they_have_nothing(
    station: ServedStation,
) -> None:
    """DAMAGED carries its boxes; the ERROR behind it carries no score, no boxes, and still is a valid result."""
    boxes = (Box(x1=1, y1=2, x2=3, y2=4, score=1.0), Box(x1=10, y1=20, x2=30, y2=40, score=2.0))
    await station.adapter.publish(answer(verdict(1, Decision.DAMAGED, boxes=boxes)))
    shown = (Tag.Verdict, Tag.Reject, Tag.ResultValid, Tag.BoxCount, Tag.Boxes)
    assert await station.read(*shown) == [2, True, True, 2, [1, 2, 3, 4, 10, 20, 30, 40]]

    await station.adapter.publish(answer(verdict(2, Decision.ERROR, part_id=None)))
    assert await station.read(*shown, Tag.ResultPartId) == [3, True, True, 0, [], ""]
    for tag in (Tag.Score, Tag.Threshold):
        value = await station.node(tag).read_data_value(raise_on_bad_status=False)
        assert value.StatusCode == ua.StatusCode(ua.UInt32(ua.StatusCodes.BadNoData))
        assert (value.Value, value.SourceTimestamp is None) == (ua.Variant(), False)


async def test_trigger_and_texts_may_come_in_one_request(station: ServedStation) -> None:
    """Wherever Trigger stands in a Write request, the texts beside it belong to it."""
    for place in (0, 1, 2):
        uri = f"file:///{place}.png"
        values: list[tuple[Tag, int | str]] = [(Tag.TriggerPartId, f"C-{place}"), (Tag.TriggerImageUri, uri)]
        values.insert(place, (Tag.Trigger, place + 1))
        statuses = await station.write(dict(values))
        assert [code.is_good() for code in statuses] == [True] * 3
        arrival = await station.arrival()
        assert (arrival.event.part_id, arrival.image and arrival.image.uri) == (f"C-{place}", uri)


async def test_triggers_of_one_request_belong_to_the_texts_before_them(station: ServedStation) -> None:
    """With more than one of them its order is all that tells which text is whose."""
    nodes, values = [], []
    for number in (1, 2):
        nodes += [station.node(Tag.TriggerPartId), station.node(Tag.Trigger)]
        values += [ua.Variant(f"C-{number}", ua.VariantType.String), ua.Variant(number, ua.VariantType.UInt32)]
    await station.client.write_values(nodes, values)
    given = [(await station.arrival()).event for _ in range(2)]
    assert [(event.trigger_id, event.part_id) for event in given] == [(1, "C-1"), (2, "C-2")]


async def test_triggers_in_quick_succession_are_all_taken(station: ServedStation) -> None:
    """No trigger is lost between samples: several in one request, and many in flight at once."""
    node = station.node(Tag.Trigger)
    burst = [ua.Variant(number, ua.VariantType.UInt32) for number in (1, 2, 3)]
    await station.client.write_values([node] * 3, burst)
    await asyncio.gather(*(station.write({Tag.Trigger: number}) for number in range(4, 60)))
    taken = [(await station.arrival()).event for _ in range(59)]
    assert {event.trigger_id for event in taken} == set(range(1, 60))
    assert len({event.event_id for event in taken}) == 59


async def test_trigger_without_texts_has_no_image_and_a_name_of_its_own(station: ServedStation) -> None:
    """An empty event id becomes station, trigger and start; the same number again gets another name."""
    await station.write({Tag.Trigger: 5})
    await station.write({Tag.Trigger: 0})
    await station.write({Tag.Trigger: 5})
    first, second = await station.arrival(), await station.arrival()
    assert (first.image, first.event.part_id) == (None, None)
    assert first.event.event_id.startswith("line1-5-20")
    assert second.event.event_id == f"{first.event.event_id}-2"
    assert station.intake.arrivals.empty()


async def test_trigger_that_is_zero_or_unchanged_starts_nothing(station: ServedStation) -> None:
    """Only a change counts, and 0 never does; neither is a missed trigger."""
    for number in (0, 9, 9, 0):
        await station.write({Tag.Trigger: number})
    assert (await station.arrival()).event.trigger_id == 9
    assert station.intake.arrivals.empty()
    assert await station.read(Tag.MissedTriggers, Tag.TriggerAck) == [0, 9]


async def test_trigger_while_not_ready_is_counted_and_nothing_else(station: ServedStation) -> None:
    """A PLC that ignores Ready sees MissedTriggers rise; the result before stays as it is."""
    await station.adapter.publish(answer(verdict(1)))
    await station.adapter.publish_status(status(), ready=False)
    await station.write({Tag.Trigger: 3})
    assert station.intake.arrivals.empty()
    shown = (Tag.MissedTriggers, Tag.TriggerAck, Tag.ResultValid, Tag.Reject, Tag.Busy)
    assert await station.read(*shown) == [1, 0, True, False, False]


async def test_trigger_with_an_unusable_text_is_refused_but_answered(station: ServedStation) -> None:
    """The event reaches the service with a refusal that names the tag, so that it gets its ERROR verdict."""
    unusable = [
        (Tag.TriggerPartId, "\x00"),
        (Tag.TriggerImageUri, "file:///" + "x" * 5000),
        (Tag.TriggerEventId, "\x00"),
    ]
    for trigger, (tag, text) in enumerate(unusable, start=1):
        await station.write({tag: text, Tag.Trigger: trigger})
        arrival = await station.arrival()
        assert arrival.refusal is not None
        assert arrival.refusal.reason is Reason.FRAME_REFUSED
        assert arrival.refusal.detail.startswith(tag.name)
        assert arrival.event.event_id.startswith(f"line1-{trigger}-")
        await station.write({tag: ""})


@pytest.mark.parametrize("event_id", ["x" * 257, "a\nb", "\x7f"])
async def test_event_id_that_breaks_the_rules_is_refused_by_its_own_name(station: ServedStation, event_id: str) -> None:
    """Only so can the ERROR verdict echo it, and the same id again repeat that verdict."""
    for trigger in (1, 2):
        await station.write({Tag.TriggerEventId: event_id, Tag.Trigger: trigger})
        arrival = await station.arrival()
        assert arrival.event.event_id == event_id
        assert arrival.refusal is not None
        assert arrival.refusal.reason is Reason.FRAME_REFUSED
        assert arrival.refusal.detail.startswith("TriggerEventId")
        said = verdict(9, Decision.ERROR, event_id=event_id, reason=Reason.FRAME_REFUSED)
        await station.adapter.publish(answer(said, arrival, repeated=trigger > 1))
        shown = (Tag.ResultEventId, Tag.Verdict, Tag.ResultValid, Tag.CountError)
        assert await station.read(*shown) == [event_id, 3, True, 1]
    await station.write({Tag.TriggerEventId: ""})


async def test_writes_that_are_not_the_plcs_are_refused_and_change_nothing(station: ServedStation) -> None:
    """Read-only tags, other nodes, wrong types, arrays and Bad values are refused with the status that says why."""
    trigger, verdict_tag = station.node(Tag.Trigger), station.node(Tag.Verdict)
    server_state = station.client.get_node("i=2259")  # Server_ServerStatus_State
    nobody = station.client.get_node(f"ns={station.namespace};s=line2.Trigger")
    number = ua.DataValue(ua.Variant(1, ua.VariantType.UInt32))
    attempts = [
        (verdict_tag, ua.DataValue(ua.Variant(1, ua.VariantType.UInt16)), "BadNotWritable"),
        (server_state, ua.DataValue(ua.Variant(1, ua.VariantType.Int32)), "BadNotWritable"),
        (nobody, number, "BadNodeIdUnknown"),
        (trigger, ua.DataValue(ua.Variant(1, ua.VariantType.Int64)), "BadTypeMismatch"),
        (trigger, ua.DataValue(ua.Variant("1", ua.VariantType.String)), "BadTypeMismatch"),
        (trigger, ua.DataValue(ua.Variant([1, 2], ua.VariantType.UInt32)), "BadTypeMismatch"),
        (trigger, ua.DataValue(), "BadTypeMismatch"),
        (
            trigger,
            ua.DataValue(number.Value, ua.StatusCode(ua.UInt32(ua.StatusCodes.BadNoData))),
            "BadWriteNotSupported",
        ),
    ]
    nodes, values = [node.nodeid for node, _, _ in attempts], [value for _, value, _ in attempts]
    codes = await station.client.uaclient.write_attributes(nodes, values)
    assert [code.name for code in codes] == [expected for _, _, expected in attempts]
    await station.write({Tag.Trigger: 1})
    assert (await station.arrival()).event.trigger_id == 1
    assert station.intake.arrivals.empty()
    assert await station.read(Tag.Verdict, Tag.Trigger) == [0, 1]


async def test_result_seq_is_the_last_tag_of_a_result_that_a_subscriber_hears_of(station: ServedStation) -> None:
    """With every tag subscribed to, all that belongs to a result has arrived when its ResultSeq does."""
    async with await station.client.create_subscription(10) as subscription:
        await subscription.subscribe_data_change(
            [station.node(tag) for tag in Tag], queuesize=100, sampling_interval=ua.Duration(0)
        )
        tags = {station.node(tag).nodeid: tag for tag in Tag}
        seen: dict[Tag, object] = {}
        for seq in range(1, 21):
            decision = (Decision.OK, Decision.DAMAGED)[seq % 2]
            await station.adapter.publish(answer(verdict(seq, decision, part_id=f"C-{seq}", trigger_id=seq)))
            while seen.get(Tag.ResultSeq) != seq:
                event = await subscription.next_event(10)
                assert isinstance(event, DataChangeEvent)
                seen[tags[event.node.nodeid]] = event.value
            got = [seen[tag] for tag in (Tag.ResultEventId, Tag.ResultPartId, Tag.ResultTriggerId, Tag.Verdict)]
            assert got == [f"event-{seq}", f"C-{seq}", seq, 1 if decision is Decision.OK else 2]


async def test_reads_never_see_half_a_result(station: ServedStation) -> None:
    """While results pour in, one read request always shows tags that belong together, with one source timestamp."""
    publishing = asyncio.create_task(_publish_many(station, 200))
    nodes = [station.node(tag) for tag in (Tag.ResultSeq, Tag.ResultEventId, Tag.Results, Tag.ResultPartId)]
    while not publishing.done():
        values = await station.client.read_attributes(nodes)
        seq, event_id, ring, part_id = [held(value) for value in values]
        if seq:
            assert (event_id, part_id) == (f"event-{seq}", f"C-{seq}")
            assert [Verdict.model_validate_json(text).seq for text in ring] == list(range(seq, max(0, seq - 8), -1))
            assert len({value.SourceTimestamp for value in values}) == 1
    await publishing
    assert await station.read(Tag.ResultSeq, Tag.CountOk) == [200, 200]


async def _publish_many(station: ServedStation, count: int) -> None:
    for seq in range(1, count + 1):
        await station.adapter.publish(answer(verdict(seq, part_id=f"C-{seq}")))
        await asyncio.sleep(0)


async def test_reject_is_false_only_for_a_part_that_may_pass_in_time(station: ServedStation) -> None:
    """After the deadline the tags show Reject true, whatever the verdict says (contract section 8)."""
    in_time, too_late = 10.0, -0.1
    cases = [
        (Decision.OK, Gate.PASS, in_time, [False, False]),
        (Decision.OK, Gate.PASS, too_late, [True, True]),
        (Decision.ERROR, Gate.PASS, in_time, [False, False]),
        (Decision.ERROR, Gate.REJECT, in_time, [True, False]),
    ]
    for seq, (decision, gate, in_s, expected) in enumerate(cases, start=1):
        await station.adapter.publish(answer(verdict(seq, decision, gate=gate), in_s=in_s))
        assert await station.read(Tag.Reject, Tag.DeadlineMissed) == expected


async def test_counters_tell_decisions_overruns_and_results_nobody_took(station: ServedStation) -> None:
    """A result that is overwritten before its ack is counted; an acknowledged one is not."""
    await station.adapter.publish(answer(verdict(1)))
    await station.write({Tag.ResultAck: 1})
    await station.adapter.publish(answer(verdict(2, Decision.DAMAGED)))
    await station.adapter.publish(answer(verdict(3, Decision.ERROR, reason=Reason.OVERLOAD)))
    counters = (Tag.CountOk, Tag.CountDamaged, Tag.CountError, Tag.Overruns, Tag.UnackedResults)
    assert await station.read(*counters) == [1, 1, 1, 1, 1]


async def test_status_is_shown_and_ready_falls_when_nobody_listens(tmp_path: Path) -> None:
    """Fault, its code, Busy and the heartbeat modulo 2^32 follow the status; with no intake Ready is false."""
    async with running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, _):
        broken = status(StationState.FAULT, heartbeat=2**32 + 5, queue=1, fault=Fault(code=17, text="no model"))
        await adapter.publish_status(broken, ready=False)
        assert adapter._tags is not None
        shown = (Tag.Ready, Tag.Busy, Tag.Fault, Tag.FaultCode, Tag.Heartbeat)
        assert [adapter._tags.number(tag) for tag in shown] == [False, True, True, 17, 5]
        await adapter.publish_status(status(), ready=True)
        assert [adapter._tags.number(tag) for tag in shown] == [True, False, False, 0, 1]
        tags = adapter._tags
    assert tags.number(Tag.Ready) is False


async def test_server_that_is_not_open_says_so(tmp_path: Path) -> None:
    """Before open and after close a publish raises SinkUnavailable; a second open serves again."""
    adapter = OpcUaServerAdapter(
        OpcUaServerSettings(port=free_port()), station="line1", clock=SystemClock(), pki=tmp_path
    )
    await adapter.close()
    for _ in range(2):
        assert adapter.fault == "the server is not open"
        with pytest.raises(SinkUnavailable):
            await adapter.publish(answer(verdict()))
        with pytest.raises(SinkUnavailable):
            await adapter.publish_status(status(), ready=True)
        await adapter.open()
        await adapter.publish(answer(verdict()))
        await adapter.close()


@pytest.mark.parametrize("failing", [False, True])
async def test_results_of_earlier_runs_stand_there_at_the_start(tmp_path: Path, failing: bool) -> None:
    """The last eight; a journal that fails keeps no server from its PLC."""
    journal, said = MemoryJournal(), [verdict(seq, event_id=f"e{seq}") for seq in range(1, 11)]
    for one in said:
        event = Arrival(ImageEvent(event_id=one.event_id), None, one.received_at, 0.0, "mqtt")
        await journal.store([(answer(one), event)])
    journal.failing = failing
    adapter = OpcUaServerAdapter(
        OpcUaServerSettings(port=free_port()), station=STATION, clock=SystemClock(), journal=journal, pki=tmp_path
    )
    await adapter.open()
    try:
        async with plain_client(adapter.endpoint) as client:
            results = tag_node(client, await client.get_namespace_index(NAMESPACE_URI), Tag.Results)
            newest_first = [] if failing else [one.to_json().decode() for one in said[:1:-1]]
            assert await results.read_value() == newest_first
            new = verdict(11, event_id="e11")
            await adapter.publish(answer(new))
            assert await results.read_value() == [new.to_json().decode(), *newest_first[:7]]
    finally:
        await adapter.close()


async def test_port_in_use_is_a_usage_error_that_names_it(tmp_path: Path) -> None:
    """`cangate run` ends with one clear line."""
    settings = OpcUaServerSettings(port=free_port())
    taken = await asyncio.get_running_loop().create_server(asyncio.Protocol, settings.host, settings.port)
    try:
        with pytest.raises(UsageError, match=rf"cannot listen on 127\.0\.0\.1:{settings.port}"):
            await OpcUaServerAdapter(settings, station="line1", clock=SystemClock(), pki=tmp_path).open()
    finally:
        taken.close()
        await taken.wait_closed()

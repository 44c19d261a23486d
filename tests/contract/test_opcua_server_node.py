"""The OPC UA server, seen by node-opcua: a client that shares no code with ours."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.simulation.broker import free_port
from schemas.messages import Box, Decision, Verdict
from schemas.settings import OpcUaServerSettings
from schemas.tags import Access, Tag, TagType
from service.ports import Arrival
from tests.support.node import needs_node, node
from tests.support.opcua import answer, running, verdict
from tests.support.waiting import eventually

pytestmark = needs_node("node-opcua-client")


async def test_node_finds_every_tag_with_its_type_access_and_start_value(tmp_path: Path) -> None:
    """Browsing Objects/Cangate/line1 shows the contract's table."""
    async with running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, _):
        seen = await node("browse.js", adapter.endpoint)
    assert seen["namespaces"][1] == "urn:cangate"
    assert set(seen["tags"]) == {tag.name for tag in Tag}
    for tag in Tag:
        shown, type_name = seen["tags"][tag.name], tag.spec.type.removesuffix("[]")
        is_array = tag.spec.type in {TagType.INT32_ARRAY, TagType.STRING_ARRAY}
        assert shown["nodeId"] == f"line1.{tag.name}"
        assert (shown["dataType"], shown["rank"]) == (type_name, 1 if is_array else -1), tag
        assert shown["dimensions"] == ({Tag.Boxes: [0], Tag.Results: [8]}[tag] if is_array else None), tag
        assert shown["access"] == (3 if tag.spec.access is Access.PLC_WRITES else 1), tag
        assert shown["sourceTimestamp"] is True, tag
        if tag.spec.start is None:
            assert (shown["status"], shown["variant"], shown["value"]) == ("BadWaitingForInitialData", "Null", None), (
                tag
            )
        else:
            assert (shown["status"], shown["variant"]) == ("Good", type_name), tag
            if tag not in {Tag.Ready, Tag.Heartbeat}:  # the fixture has shown Ready
                assert shown["value"] == (list(tag.spec.start) if isinstance(tag.spec.start, tuple) else tag.spec.start)


async def test_node_triggers_and_hears_of_every_result_with_all_its_tags(tmp_path: Path) -> None:
    """Ten triggers, ten steps of ResultSeq, and at each step the tags of that part."""
    boxes = (Box(x1=1, y1=2, x2=3, y2=4, score=1.0),)
    decisions = [Decision.OK, Decision.DAMAGED, Decision.ERROR]
    async with running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, intake):
        publishing: list[asyncio.Task[None]] = []

        def judge(arrival: Arrival) -> None:
            seq = arrival.event.trigger_id or 0
            decision = decisions[seq % 3]
            said = verdict(
                seq,
                decision,
                event_id=arrival.event.event_id,
                part_id=arrival.event.part_id,
                trigger_id=seq,
                boxes=boxes if decision is Decision.DAMAGED else (),
            )
            publishing.append(asyncio.create_task(adapter.publish(answer(said))))

        intake.judge = judge
        seen = await node("gate.js", adapter.endpoint, "10")
        await asyncio.gather(*publishing)
        assert adapter._tags is not None
        assert adapter._tags.number(Tag.UnackedResults) == 0
        arrivals = [await intake.arrivals.get() for _ in range(10)]
    assert [arrival.image and arrival.image.uri for arrival in arrivals] == [f"file:///{n}.png" for n in range(1, 11)]
    assert [step for step in seen["steps"] if step] == list(range(1, 11))
    for seq, result in enumerate(seen["results"], start=1):
        decision = decisions[seq % 3]
        expected = {
            "ResultSeq": seq,
            "ResultEventId": f"node-{seq}",
            "ResultPartId": f"C-{seq}",
            "ResultTriggerId": seq,
            "Verdict": {Decision.OK: 1, Decision.DAMAGED: 2, Decision.ERROR: 3}[decision],
            "Reject": decision is not Decision.OK,
            "ResultValid": True,
            "Score": None if decision is Decision.ERROR else 0.5,
            "Boxes": [1, 2, 3, 4] if decision is Decision.DAMAGED else [],
            "BoxCount": int(decision is Decision.DAMAGED),
        }
        assert {name: result[name] for name in expected} == expected
        assert Verdict.model_validate_json(result["Results"][0]).event_id == f"node-{seq}"


@pytest.mark.parametrize("queue", [1, 10])
async def test_node_is_told_each_result_of_an_interval_with_its_tags(tmp_path: Path, queue: int) -> None:
    """Four at once: with a queue of one the last of them, whole; no DAMAGED one is told as OK."""
    async with running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, _):
        await adapter.publish(answer(verdict(1)))
        subscribing = asyncio.create_task(node("subscribe.js", adapter.endpoint, "100", str(queue), "5"))
        assert adapter._tags is not None
        tags = adapter._tags
        await eventually(lambda: subscribing.done() or tags.number(Tag.ResultAck) == 1, 60)
        for seq, decision in ((2, Decision.OK), (3, Decision.DAMAGED), (4, Decision.OK), (5, Decision.DAMAGED)):
            await adapter.publish(answer(verdict(seq, decision)))
        steps = await subscribing
    every = [[seq, f"event-{seq}", 1 + seq % 2, seq % 2 == 1, True] for seq in range(2, 6)]
    assert steps == every[-queue:]


async def test_node_is_refused_what_a_plc_may_not_write(tmp_path: Path) -> None:
    """Each refusal says why, and the good write after them is taken."""
    async with running(OpcUaServerSettings(port=free_port()), tmp_path) as (adapter, intake):
        seen = await node("write.js", adapter.endpoint)
        arrival = await intake.arrivals.get()
        assert intake.arrivals.empty()
    assert arrival.event.trigger_id == 1
    refusals = dict.fromkeys(("verdict", "reject", "boxes"), "BadNotWritable")
    refusals |= dict.fromkeys(("signed", "text", "number", "array"), "BadTypeMismatch")
    assert seen == refusals | {"bad": "BadWriteNotSupported", "good": "Good"}

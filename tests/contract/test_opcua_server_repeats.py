"""A PLC that asks again for what was answered: it gets the same result, as one of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from asyncua import ua
from asyncua.common.subscription import DataChangeEvent

from adapters.clock import SystemClock
from adapters.simulation.broker import free_port
from schemas.messages import Decision, Reason, Verdict
from schemas.settings import OpcUaServerSettings
from schemas.tags import Tag
from service.ports import Arrival
from tests.support.fakes import RecordingIntake
from tests.support.line import arrival as arrival_of
from tests.support.opcua import ServedStation, answer, running, status, verdict

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_repeated_answer_is_shown_only_to_the_trigger_that_asked(station: ServedStation) -> None:
    """A repeat that another way in asked for leaves the tags alone; a PLC that asks again gets its result again."""
    first, second = verdict(1, event_id="e1"), verdict(2, event_id="e2")
    await station.adapter.publish(answer(first))
    await station.adapter.publish(answer(second))
    await station.adapter.publish(answer(first, repeated=True))
    assert await station.read(Tag.ResultSeq, Tag.CountOk) == [2, 2]

    asked = await trigger(station, 1, event_id="e1")
    assert await station.read(Tag.ResultValid, Tag.Busy) == [False, True]
    await station.adapter.publish(answer(first, asked, repeated=True))
    shown = (Tag.ResultValid, Tag.Busy, Tag.ResultSeq, Tag.ResultEventId, Tag.Verdict, Tag.CountOk, Tag.Results)
    newest_first = [said.to_json().decode() for said in (second, first)]
    assert await station.read(*shown) == [True, False, 1, "e1", 1, 2, newest_first]


async def trigger(station: ServedStation, number: int, *, event_id: str, part_id: str = "") -> Arrival:
    """Give a trigger for an event; return what the service made of it."""
    await station.write({Tag.TriggerEventId: event_id, Tag.TriggerPartId: part_id, Tag.Trigger: number})
    arrival = await station.arrival()
    await station.write({Tag.TriggerEventId: "", Tag.TriggerPartId: ""})
    return arrival


async def repeat(station: ServedStation, said: Verdict, *, in_s: float = 10.0) -> None:
    """Let the PLC ask again for what was judged before."""
    asked = await trigger(station, 1, event_id=said.event_id)
    await station.adapter.publish(answer(said, asked, in_s=in_s, repeated=True))
    await station.write({Tag.Trigger: 0})


async def test_results_are_the_newest_whatever_is_repeated(station: ServedStation) -> None:
    """A repetition is no newer verdict: in its place among the last eight, or older than all of them."""
    for seq in range(11, 19):
        await station.adapter.publish(answer(verdict(seq)))
        if seq == 12:
            await repeat(station, verdict(10))
    for said in (verdict(9), verdict(14)):
        await repeat(station, said)
        shown, ring = await station.read(Tag.ResultSeq, Tag.Results)
        assert shown == said.seq
        assert isinstance(ring, list)
        assert [Verdict.model_validate_json(text).seq for text in ring] == list(range(18, 10, -1))


async def test_repeated_result_says_what_it_said_when_it_was_new(station: ServedStation) -> None:
    """Minutes later neither its latency nor whether it missed its deadline has changed; only the gate stays shut."""
    in_time, late, missed = verdict(1), verdict(2), verdict(3, Decision.ERROR, reason=Reason.DEADLINE_MISSED)
    shown = (Tag.ResultSeq, Tag.DeadlineMissed, Tag.LatencyMs)
    first = {}
    for said, in_s in ((in_time, 10.0), (late, -0.1), (missed, -0.1)):
        decided = SystemClock().monotonic() - 0.25
        await station.adapter.publish(replace(answer(said, in_s=in_s), decided_monotonic=decided))
        first[said.seq] = await station.read(*shown)
    assert [seen[:2] for seen in first.values()] == [[1, False], [2, True], [3, True]]
    for said in (in_time, late, missed):
        await repeat(station, said, in_s=-100.0)
        assert await station.read(*shown, Tag.Reject) == [*first[said.seq], True]


async def test_repeated_result_of_an_earlier_run_says_what_its_verdict_does(station: ServedStation) -> None:
    """When its tags were written then, nobody knows any more."""
    for said in (verdict(1), verdict(2, Decision.ERROR, reason=Reason.DEADLINE_MISSED)):
        await repeat(station, said, in_s=-100.0)
        missed = said.reason is Reason.DEADLINE_MISSED
        assert await station.read(Tag.DeadlineMissed, Tag.LatencyMs, Tag.Reject) == [missed, said.latency_ms, True]


async def test_result_that_a_repeated_one_overwrites_is_unacknowledged_too(station: ServedStation) -> None:
    """The same result once more overwrites nothing."""
    first, second = verdict(1), verdict(2)
    await station.adapter.publish(answer(first))
    await station.write({Tag.ResultAck: 1})
    await station.adapter.publish(answer(second))
    for said, unacknowledged in ((second, 0), (first, 1), (second, 1)):
        await repeat(station, said)
        assert await station.read(Tag.ResultSeq, Tag.UnackedResults) == [said.seq, unacknowledged]


async def test_each_trigger_of_an_event_gets_its_result(station: ServedStation) -> None:
    """Both were given before the first was answered: each finds its own number, beside the verdict as it was said."""
    said = verdict(5, Decision.DAMAGED, event_id="e1", trigger_id=7)
    seven, eight = [await trigger(station, number, event_id="e1") for number in (7, 8)]
    shown = (Tag.ResultTriggerId, Tag.ResultSeq, Tag.ResultValid, Tag.Verdict, Tag.Busy, Tag.CountDamaged)
    await station.adapter.publish(answer(said, seven))
    assert await station.read(*shown) == [7, 5, True, 2, True, 1]
    await station.adapter.publish(answer(said, eight, repeated=True))
    assert await station.read(*shown) == [8, 5, True, 2, False, 1]
    assert await station.read(Tag.Results) == [[said.to_json().decode()]]
    await station.adapter.publish(answer(said, repeated=True))  # another way in asked
    assert await station.read(*shown) == [8, 5, True, 2, False, 1]


@pytest.mark.parametrize(("part_id", "rejects"), [("C-1", False), ("C-2", True), ("", False)])
async def test_verdict_on_one_part_lets_no_other_pass(station: ServedStation, part_id: str, rejects: bool) -> None:
    """A PLC that leaves the event id of the part before standing: its verdict comes again, and opens no gate."""
    said = verdict(5, event_id="e1", part_id="C-1", trigger_id=7)
    await station.adapter.publish(answer(said, await trigger(station, 7, event_id="e1", part_id="C-1")))
    assert await station.read(Tag.ResultTriggerId, Tag.Verdict, Tag.Reject) == [7, 1, False]
    asked = await trigger(station, 8, event_id="e1", part_id=part_id)
    await station.adapter.publish(answer(said, asked, repeated=True))
    assert await station.read(Tag.ResultTriggerId, Tag.Verdict, Tag.Reject) == [8, 1, rejects]


async def test_trigger_of_an_event_that_came_another_way_gets_its_number(station: ServedStation) -> None:
    """A camera says it over MQTT, the PLC gives a trigger with the same id: until its own result comes it waits."""
    for seq, named in ((1, None), (2, 123)):
        said = verdict(seq, event_id=f"e{seq}", trigger_id=named)
        asked = await trigger(station, 7, event_id=said.event_id)
        await station.adapter.publish(answer(said))
        assert await station.read(Tag.ResultTriggerId, Tag.Busy) == [named or 0, True]
        await station.adapter.publish(answer(said, asked, repeated=True))
        assert await station.read(Tag.ResultTriggerId, Tag.Busy) == [7, False]
        await station.write({Tag.Trigger: 0})


async def test_station_is_busy_until_the_last_trigger_is_answered(station: ServedStation) -> None:
    """Whichever of them is answered first."""
    first, second = [await trigger(station, number, event_id=f"e{number}") for number in (1, 2)]
    await station.adapter.publish(answer(verdict(1, event_id="e2", trigger_id=2), second))
    assert await station.read(Tag.ResultTriggerId, Tag.Busy) == [2, True]
    await station.adapter.publish(answer(verdict(2, event_id="e1", trigger_id=1), first))
    assert await station.read(Tag.ResultTriggerId, Tag.Busy) == [1, False]


async def test_repetition_that_never_came_leaves_nothing_behind(station: ServedStation) -> None:
    """It was dropped, as where hundreds wait; the next one is not mistaken for it."""
    said = verdict(5, event_id="e1")
    await trigger(station, 7, event_id="e1")
    asked = await trigger(station, 8, event_id="e1")
    await station.adapter.publish(answer(said, asked, repeated=True))
    assert await station.read(Tag.ResultTriggerId, Tag.Busy) == [8, True]
    (at,) = station.adapter._asked.values()
    station.adapter._asked = dict.fromkeys(station.adapter._asked, at - 6.0)
    await station.adapter.publish_status(status(), ready=True)
    assert await station.read(Tag.Busy) == [False]


async def test_subscriber_of_result_seq_alone_hears_a_repetition(station: ServedStation) -> None:
    """The number is the one that it heard last; that it comes again is the answer."""
    said = verdict(4, event_id="e4")
    await station.adapter.publish(answer(said))
    async with await station.client.create_subscription(10) as subscription:
        await subscription.subscribe_data_change(
            [station.node(Tag.ResultSeq)], queuesize=10, sampling_interval=ua.Duration(0)
        )
        heard = []
        for _ in range(3):
            event = await subscription.next_event(10)
            assert isinstance(event, DataChangeEvent)
            heard.append(event.value)
            await repeat(station, said)
    assert heard == [4, 4, 4]


async def test_result_of_the_part_that_had_the_number_before_lets_none_pass(station: ServedStation) -> None:
    """A PLC that gives a number again while it is in work, and one that gave it while the station was not ready."""
    first = await trigger(station, 1, event_id="e1", part_id="A")
    await station.write({Tag.Trigger: 0})
    second = await trigger(station, 1, event_id="e2", part_id="B")
    shown = (Tag.ResultTriggerId, Tag.ResultPartId, Tag.Verdict, Tag.Reject)
    await station.adapter.publish(answer(verdict(1, event_id="e1", part_id="A", trigger_id=1), first))
    assert await station.read(*shown) == [1, "A", 1, True]

    said = verdict(2, event_id="e2", part_id="B", trigger_id=1)
    await station.adapter.publish(answer(said, second))
    assert await station.read(*shown) == [1, "B", 1, False]
    await station.adapter.publish_status(status(), ready=False)
    await station.write({Tag.Trigger: 0})
    await station.write({Tag.TriggerPartId: "C", Tag.Trigger: 1})
    assert await station.read(Tag.MissedTriggers) == [1]
    await station.adapter.publish(answer(said, second))
    assert await station.read(*shown) == [1, "B", 1, True]


async def test_result_of_an_earlier_run_lets_no_newer_part_of_its_number_pass(tmp_path: Path) -> None:
    """Both were left in work when the service went down."""
    intake = RecordingIntake()
    intake.left_open = [replace(arrival_of(each, trigger_id=1), source="opcua") for each in ("e1", "e2")]
    async with running(OpcUaServerSettings(port=free_port()), tmp_path, intake) as (adapter, _):
        shown = []
        for seq, asked in enumerate(intake.left_open, start=1):
            said = verdict(seq, event_id=asked.event.event_id, part_id=asked.event.part_id, trigger_id=1)
            await adapter.publish(answer(said, asked))
            assert adapter._tags is not None
            shown.append((adapter._tags.number(Tag.Verdict), bool(adapter._tags.number(Tag.Reject))))
    assert shown == [(1, True), (1, False)]

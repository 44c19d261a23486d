"""The texts beside a trigger, where a write of one was refused: nobody knows what it should say, and no part passes."""

from __future__ import annotations

from pathlib import Path

import argon2
import pytest
from asyncua import ua

from adapters.simulation.broker import free_port
from schemas.messages import Decision, Reason
from schemas.settings import OpcUaServerSettings
from schemas.tags import Tag
from service.ports import Arrival
from tests.support.opcua import STATION, ServedStation, answer, plain_client, running, tag_node, verdict

pytestmark = pytest.mark.asyncio(loop_scope="module")
UNCERTAIN = ua.StatusCode(ua.UInt32(0x4000_0000))
GOOD: dict[Tag, int | str] = {
    Tag.TriggerPartId: "C-1",
    Tag.TriggerImageUri: "file:///1.png",
    Tag.TriggerEventId: "event-1",
}
PART_2: dict[Tag, str] = {Tag.TriggerPartId: "C-2", Tag.TriggerImageUri: "file:///2.png", Tag.TriggerEventId: "event-2"}


def item(node_id: ua.NodeId, value: ua.DataValue, index_range: str | None = None) -> ua.WriteValue:
    return ua.WriteValue(NodeId=node_id, AttributeId=ua.AttributeIds.Value, IndexRange=index_range, Value=value)


def text(said: str, status: ua.StatusCode | None = None) -> ua.DataValue:
    return ua.DataValue(ua.Variant(said, ua.VariantType.String), status)


async def send(station: ServedStation, *items: ua.WriteValue) -> list[str]:
    """Make one Write request; return the names of its statuses."""
    codes = await station.client.uaclient.write(ua.WriteParameters(NodesToWrite=list(items)))
    return [code.name for code in codes]


def trigger(station: ServedStation, number: int) -> ua.WriteValue:
    return item(station.node(Tag.Trigger).nodeid, ua.DataValue(ua.Variant(number, ua.VariantType.UInt32)))


def refused(station: ServedStation, tag: Tag) -> list[ua.WriteValue]:
    """Return writes of a text, each of which is refused in its own way."""
    node_id = station.node(tag).nodeid
    return [
        item(node_id, text(PART_2[tag], UNCERTAIN)),
        item(node_id, text(PART_2[tag]), "0:2"),
        item(node_id, ua.DataValue(ua.Variant(2, ua.VariantType.UInt32))),
        item(node_id, ua.DataValue(ua.Variant([PART_2[tag]], ua.VariantType.String))),
        item(node_id, ua.DataValue()),
    ]


def assert_unknown(arrival: Arrival, number: int, *tags: Tag) -> None:
    """Assert that the part is answered ERROR under a name that no other part has, and says which tags are why."""
    assert arrival.event.event_id.startswith(f"{STATION}-{number}-")
    assert arrival.event.trigger_id == number
    assert arrival.refusal is not None
    assert arrival.refusal.reason is Reason.FRAME_REFUSED
    assert arrival.refusal.detail == f"{', '.join(tag.name for tag in tags)}: the last write was refused"


@pytest.mark.parametrize("together", [True, False])
async def test_part_whose_texts_were_refused_gets_no_verdict_of_another(station: ServedStation, together: bool) -> None:
    """Part 1 was OK; the texts of part 2 are refused, in the request of its trigger or in an earlier one."""
    await station.write({**GOOD, Tag.Trigger: 1})
    first = await station.arrival()
    await station.adapter.publish(answer(verdict(1, event_id="event-1"), first))
    texts = [item(station.node(tag).nodeid, text(said, UNCERTAIN)) for tag, said in PART_2.items()]
    if together:
        assert await send(station, trigger(station, 2), *texts) == ["Good"] + ["BadWriteNotSupported"] * 3
    else:
        assert await send(station, *texts) == ["BadWriteNotSupported"] * 3
        await station.write({Tag.Trigger: 2})
    second = await station.arrival()
    assert_unknown(second, 2, *PART_2)
    assert (second.event.part_id, second.image) == (None, None)
    said = verdict(2, Decision.ERROR, event_id=second.event.event_id, part_id=None, reason=Reason.FRAME_REFUSED)
    await station.adapter.publish(answer(said, second))
    shown = (Tag.TriggerAck, Tag.ResultTriggerId, Tag.ResultPartId, Tag.Verdict, Tag.Reject, Tag.MissedTriggers)
    assert await station.read(*shown) == [2, 2, "", 3, True, 0]


@pytest.mark.parametrize("tag", list(PART_2))
async def test_each_refused_text_makes_the_part_unknown_until_it_is_written(station: ServedStation, tag: Tag) -> None:
    """Whichever text, and whyever: it carried no good status, a range, another type, an array or nothing at all."""
    number = 0
    for write in refused(station, tag):
        await station.write(GOOD)
        await send(station, write)
        for _ in range(2):  # also for the next part: the text is as unknown as before
            number += 1
            await station.write({Tag.Trigger: number})
            assert_unknown(await station.arrival(), number, tag)
        number += 1
        await station.write({tag: PART_2[tag], Tag.Trigger: number})
        arrival = await station.arrival()
        assert arrival.refusal is None
        assert (arrival.event.event_id == "event-2") is (tag is Tag.TriggerEventId)


async def test_known_part_id_beside_an_unknown_text_is_kept(station: ServedStation) -> None:
    """By it the gate knows the part that it must reject; its event id says nothing, for it may be another's."""
    await send(station, refused(station, Tag.TriggerImageUri)[0])
    await station.write({Tag.TriggerPartId: "C-2", Tag.TriggerEventId: "event-1", Tag.Trigger: 5})
    arrival = await station.arrival()
    assert_unknown(arrival, 5, Tag.TriggerImageUri)
    assert arrival.event.part_id == "C-2"


async def test_last_write_of_a_request_counts(station: ServedStation) -> None:
    """A refused one before a good one is made up for; one behind it is not."""
    node_id = station.node(Tag.TriggerPartId).nodeid
    good, bad = item(node_id, text("C-2")), item(node_id, text("C-3", UNCERTAIN))
    await send(station, bad, good, trigger(station, 1))
    assert (await station.arrival()).refusal is None
    await send(station, good, bad, trigger(station, 2))
    assert_unknown(await station.arrival(), 2, Tag.TriggerPartId)


async def test_other_refused_writes_leave_the_texts_known(station: ServedStation) -> None:
    """Of another attribute, of ResultAck, of the trigger itself, of a tag that nobody may write."""
    await station.write(GOOD)
    number = ua.DataValue(ua.Variant(2, ua.VariantType.UInt32), UNCERTAIN)
    described = item(station.node(Tag.TriggerPartId).nodeid, text("x"))
    described.AttributeId = ua.AttributeIds.DisplayName
    writes = [item(station.node(tag).nodeid, number) for tag in (Tag.ResultAck, Tag.Trigger)]
    writes += [described, item(station.node(Tag.Reason).nodeid, text("x"))]
    assert "Good" not in await send(station, *writes)
    await station.write({Tag.Trigger: 7})
    arrival = await station.arrival()
    assert (arrival.refusal, arrival.event.event_id) == (None, "event-1")


async def test_who_may_not_write_makes_no_text_unknown(tmp_path: Path) -> None:
    """Else anybody who may look could stop the line."""
    secret = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")
    users = tmp_path / "users"
    users.write_text("".join(f"{role}:{role}:{secret}\n" for role in ("operator", "plc")))
    settings = OpcUaServerSettings(port=free_port(), anonymous=False, users_file=users)
    async with running(settings, tmp_path) as (adapter, intake):
        clients = [plain_client(adapter.endpoint) for _ in range(2)]
        for role, client in zip(("operator", "plc"), clients, strict=True):
            client.set_user(role)
            client.set_password("secret")
        async with clients[0] as operator, clients[1] as plc:
            for value in (text("x"), text("x", UNCERTAIN), ua.DataValue(ua.Variant(1))):
                write = item(tag_node(operator, 1, Tag.TriggerPartId).nodeid, value)
                (code,) = await operator.uaclient.write(ua.WriteParameters(NodesToWrite=[write]))
                assert code.name == "BadUserAccessDenied"
            await tag_node(plc, 1, Tag.Trigger).write_value(ua.Variant(1, ua.VariantType.UInt32))
        assert intake.arrivals.get_nowait().refusal is None

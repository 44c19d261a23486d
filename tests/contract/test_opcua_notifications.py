"""What a subscriber was told when ResultSeq comes: the tags of that result, whatever else fell into the interval."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial

import pytest
from asyncua import Client, Node, ua
from asyncua.common.subscription import DataChangeNotif

from schemas.messages import Decision
from schemas.tags import Tag
from tests.support.opcua import STATION, ServedStation, answer, verdict
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
OK, DAMAGED, ERROR = Decision.OK, Decision.DAMAGED, Decision.ERROR
SUBSCRIBED = (Tag.ResultSeq, Tag.ResultEventId, Tag.Verdict, Tag.Reject, Tag.ResultValid)
JUDGED = {OK: [1, False, True], DAMAGED: [2, True, True], ERROR: [3, True, True]}
WAITING = [0, True, False]
OVERFLOW = 0x480  # of a DataValue (OPC 10000-4, 7.39.1)


class Subscriber:
    """Notes at each ResultSeq what it was told of the other tags, as a gate does that acts on it."""

    def __init__(self, tags: Mapping[ua.NodeId, Tag]) -> None:
        self._tags = tags
        self.seen: dict[Tag, object] = {}
        self.steps: asyncio.Queue[list[object]] = asyncio.Queue()

    def datachange_notification(self, node: Node, value: object, data: object) -> None:  # noqa: ARG002 - asyncua's
        tag = self._tags[node.nodeid]
        self.seen[tag] = value
        if tag is Tag.ResultSeq:
            self.steps.put_nowait([self.seen.get(each) for each in SUBSCRIBED])

    async def steps_until(self, seq: int) -> list[list[object]]:
        """Return what was noted up to a ResultSeq."""
        steps: list[list[object]] = []
        async with asyncio.timeout(10):
            while not steps or steps[-1][0] != seq:
                steps.append(await self.steps.get())
        return steps


@contextlib.asynccontextmanager
async def subscribed(station: ServedStation, client: Client, queues: Mapping[Tag, int]) -> AsyncIterator[Subscriber]:
    """Subscribe at 10 ms behind a first result that is OK; what belongs to it has been told."""
    await station.adapter.publish(answer(verdict(1)))
    subscriber = Subscriber({station.node(tag).nodeid: tag for tag in queues})
    async with await client.create_subscription(10, subscriber) as subscription:
        for tag, queue in queues.items():
            node = client.get_node(station.node(tag).nodeid)
            await subscription.subscribe_data_change(node, queuesize=queue, sampling_interval=ua.Duration(0))
        await eventually(lambda: subscriber.seen.keys() == queues.keys())
        assert [subscriber.seen[tag] for tag in SUBSCRIBED] == step(1, JUDGED[OK])
        await subscriber.steps.get()
        yield subscriber


def step(seq: int, shown: Sequence[object]) -> list[object]:
    return [seq, f"event-{seq}", *shown]


@pytest.mark.parametrize("queue", [1, 2, 10])
@pytest.mark.parametrize(
    "decisions", [(OK, DAMAGED), (DAMAGED, OK), (OK, DAMAGED, OK), (OK, OK, ERROR), (DAMAGED, DAMAGED, OK)]
)
async def test_results_of_one_interval_come_each_with_their_own_tags(
    station: ServedStation, flooder: Client, queue: int, decisions: tuple[Decision, ...]
) -> None:
    """As many as the queues have room for, the last of them, each whole; what it alone changed is not behind it."""
    async with subscribed(station, flooder, dict.fromkeys(SUBSCRIBED, queue)) as subscriber:
        results = dict(enumerate(decisions, start=2))
        for seq, decision in results.items():
            await station.adapter.publish(answer(verdict(seq, decision)))
        steps = await subscriber.steps_until(max(results))
    every = [step(seq, JUDGED[decision]) for seq, decision in results.items()]
    assert steps == every[-queue:]


@pytest.mark.parametrize("queue", [1, 10])
async def test_result_that_the_next_trigger_overtakes_is_told_with_its_own_tags_or_as_not_valid(
    station: ServedStation, flooder: Client, queue: int
) -> None:
    """The value 2 of Verdict has no room beside the 0 that came behind it: told is 0, never the 1 from before."""
    async with subscribed(station, flooder, dict.fromkeys(SUBSCRIBED, queue)) as subscriber:
        adapter = station.adapter
        assert adapter._tags is not None
        adapter._on_trigger(adapter._tags, 1)
        await adapter.publish(answer(verdict(2, DAMAGED)))
        adapter._on_trigger(adapter._tags, 2)
        steps = await subscriber.steps_until(2)
    assert steps == [step(2, WAITING if queue == 1 else JUDGED[DAMAGED])]


@pytest.mark.parametrize("queue", [1, 10])
async def test_result_that_is_asked_for_again_is_told_again(
    station: ServedStation, flooder: Client, queue: int
) -> None:
    """ResultSeq is the one that was told, and comes all the same, behind the tags of its result."""
    async with subscribed(station, flooder, dict.fromkeys(SUBSCRIBED, queue)) as subscriber:
        adapter = station.adapter
        assert adapter._tags is not None
        for trigger in (1, 2):
            await station.write({Tag.TriggerEventId: "event-1", Tag.Trigger: trigger})
            assert adapter._tags.number(Tag.ResultValid) is False
            await adapter.publish(answer(verdict(1), await station.arrival(), repeated=True))
            assert await asyncio.wait_for(subscriber.steps.get(), 10) == step(1, JUDGED[OK])
        await adapter.publish(answer(verdict(2, DAMAGED)))
        assert await subscriber.steps_until(2) == [step(2, JUDGED[DAMAGED])]
    await station.write({Tag.TriggerEventId: ""})


@pytest.mark.parametrize("small", [Tag.Verdict, Tag.Reject, Tag.ResultEventId])
async def test_result_whose_tags_found_no_room_is_not_told_of(
    station: ServedStation, flooder: Client, small: Tag
) -> None:
    """One tag has a queue of one, the others of ten: only the last ResultSeq still has all that belongs to it."""
    async with subscribed(station, flooder, dict.fromkeys(SUBSCRIBED, 10) | {small: 1}) as subscriber:
        for seq, decision in enumerate((DAMAGED, OK, DAMAGED, OK), start=2):
            await station.adapter.publish(answer(verdict(seq, decision)))
        assert await subscriber.steps_until(5) == [step(5, JUDGED[OK])]


async def test_tags_beside_the_result_have_no_part_in_it(station: ServedStation, flooder: Client) -> None:
    """A heartbeat that beats twice in an interval takes no step of ResultSeq away."""
    queues = dict.fromkeys(SUBSCRIBED, 10) | {Tag.Heartbeat: 1, Tag.Busy: 1}
    async with subscribed(station, flooder, queues) as subscriber:
        adapter = station.adapter
        assert adapter._tags is not None
        for seq, decision in enumerate((DAMAGED, OK), start=2):
            adapter._tags.write({Tag.Heartbeat: seq, Tag.Busy: True}, adapter._clock.now())
            await adapter.publish(answer(verdict(seq, decision)))
        assert await subscriber.steps_until(3) == [step(2, JUDGED[DAMAGED]), step(3, JUDGED[OK])]


class Listener:
    """Notes what it is told, in order, and whether it is told that something was lost before it."""

    report: Callable[[], Awaitable[object]]
    disable: Callable[[], Awaitable[object]]

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[Tag, object, bool]] = asyncio.Queue()

    def datachange_notification(self, node: Node, value: object, data: DataChangeNotif) -> None:
        status = data.monitored_item.Value.StatusCode
        assert status is not None
        assert status.is_good()
        tag = str(node.nodeid.Identifier).removeprefix(f"{STATION}.")
        self.told.put_nowait((Tag[tag], value, status.value & OVERFLOW == OVERFLOW))

    async def next(self, count: int) -> list[tuple[Tag, object, bool]]:
        async with asyncio.timeout(10):
            return [await self.told.get() for _ in range(count)]


@contextlib.asynccontextmanager
async def listening(
    client: Client,
    items: Mapping[ua.NodeId, int],
    *,
    discard_oldest: bool = True,
    sampled: Sequence[ua.NodeId] = (),
) -> AsyncIterator[Listener]:
    """Subscribe with queues of these sizes at a long interval; the first values have been told.

    `sampled` are only sampled until `listener.report` is called.
    """
    listener = Listener()
    async with await client.create_subscription(300, listener) as subscription:
        requests = []
        for node_id, queue in items.items():
            request = subscription._make_monitored_item_request(
                client.get_node(node_id),
                ua.AttributeIds.Value,
                None,
                queue,
                ua.MonitoringMode.Sampling if node_id in sampled else ua.MonitoringMode.Reporting,
                ua.Duration(0),
            )
            request.RequestedParameters.DiscardOldest = discard_oldest
            requests.append(request)
        await subscription.create_monitored_items(requests)
        listener.report = partial(subscription.set_monitoring_mode, ua.MonitoringMode.Reporting)
        listener.disable = partial(subscription.set_monitoring_mode, ua.MonitoringMode.Disabled)
        assert not any(lost for _, _, lost in await listener.next(len(items) - len(sampled)))
        yield listener


async def publish(station: ServedStation, *decisions: Decision) -> None:
    """Publish results from 1 on, all within one publishing interval."""
    for seq, decision in enumerate(decisions, start=1):
        await station.adapter.publish(answer(verdict(seq, decision)))


@pytest.mark.parametrize("queue", [1, 2, 3, 4])
async def test_subscriber_is_told_that_results_were_lost(station: ServedStation, flooder: Client, queue: int) -> None:
    """On the first that is told behind the gap; a queue of one has none, for it holds the latest and nothing else."""
    async with listening(flooder, {station.node(Tag.ResultSeq).nodeid: queue}) as listener:
        await publish(station, OK, OK, OK, OK)
        told = await listener.next(queue)
        assert told == [(Tag.ResultSeq, seq, seq == 5 - queue and 1 < queue < 4) for seq in range(5 - queue, 5)]
        await station.adapter.publish(answer(verdict(5)))
        assert await listener.next(1) == [(Tag.ResultSeq, 5, False)]


async def test_result_that_is_not_told_of_for_want_of_a_tag_is_lost(station: ServedStation, flooder: Client) -> None:
    """ResultSeq had room for all of them, Verdict for one: what is told of says that others were there."""
    items = {station.node(Tag.Verdict).nodeid: 1, station.node(Tag.ResultSeq).nodeid: 10}
    async with listening(flooder, items) as listener:
        await publish(station, OK, DAMAGED, OK)
        assert await listener.next(2) == [(Tag.Verdict, 1, False), (Tag.ResultSeq, 3, True)]


async def test_subscriber_that_keeps_the_oldest_loses_the_latest_but_one(
    station: ServedStation, flooder: Client
) -> None:
    """The last in the queue makes room for the newest, which says so (OPC 10000-4, 5.12.1.5)."""
    tags = (Tag.Verdict, Tag.ResultSeq)
    items = {station.node(tag).nodeid: 2 for tag in tags}
    async with listening(flooder, items, discard_oldest=False) as listener:
        await publish(station, DAMAGED, OK, DAMAGED, ERROR)
        assert await listener.next(4) == [
            (Tag.Verdict, 2, False),
            (Tag.ResultSeq, 1, False),
            (Tag.Verdict, 3, True),
            (Tag.ResultSeq, 4, True),
        ]


async def test_item_that_is_only_sampled_is_told_of_when_it_is_reported(
    station: ServedStation, flooder: Client
) -> None:
    """Until then its value is looked at and kept; what it had at the start is no news."""
    tags = (Tag.Verdict, Tag.ResultSeq)
    sampled = station.node(Tag.Verdict).nodeid
    items = {station.node(tag).nodeid: 10 for tag in tags}
    async with listening(flooder, items, sampled=[sampled]) as listener:
        await publish(station, OK, DAMAGED)
        assert await listener.next(2) == [(Tag.ResultSeq, 1, False), (Tag.ResultSeq, 2, False)]
        await listener.report()
        assert await listener.next(1) == [(Tag.Verdict, 2, False)]
        await station.adapter.publish(answer(verdict(3)))
        assert await listener.next(2) == [(Tag.Verdict, 1, False), (Tag.ResultSeq, 3, False)]


@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.parametrize("sampled", [True, False])
async def test_item_that_was_disabled_is_told_of_with_what_it_holds(
    station: ServedStation, flooder: Client, sampled: bool, changed: bool
) -> None:
    """What it held before, sampled or waiting to be told, is dropped: told last, it would be taken for the latest."""
    verdict_node = station.node(Tag.Verdict).nodeid
    async with listening(flooder, {verdict_node: 10}, sampled=[verdict_node] if sampled else []) as listener:
        await publish(station, OK, ERROR)
        await listener.disable()
        if changed:
            await station.adapter.publish(answer(verdict(3, DAMAGED)))
        await listener.report()
        assert await listener.next(1) == [(Tag.Verdict, 2 if changed else 3, False)]
        await station.adapter.publish(answer(verdict(4)))
        assert await listener.next(1) == [(Tag.Verdict, 1, False)]

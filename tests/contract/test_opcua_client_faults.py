"""What can be wrong with a PLC's nodes, each under its name; and what heals by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from asyncua import Node, ua
from asyncua.common.methods import uamethod

from adapters.opcua.client import OpcUaClientAdapter
from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import NAMESPACE_URI, PlcServer
from schemas.messages import Decision
from schemas.tags import VerdictCode
from service.errors import SinkUnavailable
from tests.support.fakes import RecordingIntake
from tests.support.opcua import answer, verdict
from tests.support.plc import StubbornPlc, plc_client, refusing, serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served_plc() -> AsyncIterator[PlcServer]:
    """Serve a PLC with some odd nodes beside the usual ones."""
    async with PlcServer(free_port()) as plc:
        index = await plc.server.get_namespace_index(NAMESPACE_URI)
        folder = await plc.server.nodes.objects.add_folder(node_id("odd", index), f"{index}:odd")

        async def add(name: str, value: object, kind: ua.VariantType, data_type: ua.NodeId | None = None) -> Node:
            node = await folder.add_variable(node_id(f"odd.{name}", index), f"{index}:{name}", value, kind, data_type)
            await node.set_writable()
            return node

        await add("array", [1, 2], ua.VariantType.UInt32)
        await (await add("read_only", 0, ua.VariantType.Int16)).set_read_only()
        unreadable = await add("unreadable", 0, ua.VariantType.UInt32)
        for attribute in (ua.AttributeIds.AccessLevel, ua.AttributeIds.UserAccessLevel):
            await unreadable.unset_attr_bit(attribute, ua.AccessLevel.CurrentRead)
        await folder.add_method(node_id("odd.method", index), f"{index}:method", uamethod(lambda _: None), [], [])
        derived = await plc.server.nodes.base_data_type.get_child("0:Number/0:Integer/0:Int16")
        counter = await derived.add_data_type(node_id("odd.Counter", index), f"{index}:Counter")
        await add("derived", 0, ua.VariantType.Int16, counter.nodeid)
        colours = await plc.server.nodes.enum_data_type.add_data_type(node_id("odd.Code", index), f"{index}:Code")
        await add("enumeration", 0, ua.VariantType.Int32, colours.nodeid)
        await add("abstract", 0, ua.VariantType.Byte, ua.NodeId(ua.Int32(ua.ObjectIds.Number)))
        StubbornPlc(plc)
        yield plc


def node_id(text: str, namespace: int) -> ua.NodeId:
    return ua.NodeId(ua.String(text), ua.Int16(namespace))


async def fault_of(adapter: OpcUaClientAdapter) -> str:
    """Return the fault that the adapter settles on, after a check that it takes no trigger meanwhile."""
    async with serving(adapter, connected=False) as intake:
        await eventually(lambda: adapter.fault not in (None, "not connected yet"))
        assert adapter.fault is not None
        with pytest.raises(SinkUnavailable):
            await adapter.publish(answer(verdict(1)))
        assert intake.arrivals.empty()
        return adapter.fault


ODD = f"nsu={NAMESPACE_URI};s=odd"


@pytest.mark.parametrize(
    ("word", "address", "expected"),
    [
        ("reject", f"nsu={NAMESPACE_URI};s=line1.nothing", "node_unknown: reject: nsu=urn:plc;s=line1.nothing"),
        ("trigger", "ns=2;i=77", "node_unknown: trigger: ns=2;i=77"),
        ("trigger", "nsu=urn:other;s=line1.trigger", "namespace_unknown: trigger: nsu=urn:other;s=line1.trigger"),
        ("score", "ns=9;s=line1.score", "namespace_unknown: score: ns=9;s=line1.score"),
        ("verdict", ODD, "not_a_variable: verdict"),
        ("verdict", f"{ODD}.method", "not_a_variable: verdict"),
        ("verdict", f"{ODD}.read_only", "access_denied: verdict"),
        ("trigger", f"{ODD}.unreadable", "access_denied: trigger"),
        ("trigger", f"{ODD}.array", "type_unsuitable: trigger"),
        ("verdict", f"nsu={NAMESPACE_URI};s=line1.reject", "two words"),
        ("trigger", "i=2256", "type_unsuitable: trigger: ExtensionObject"),
    ],
    ids=str,
)
async def test_wrong_node_is_named_with_its_fault(plc: PlcServer, word: str, address: str, expected: str) -> None:
    """Fault, key and NodeId in one line; no trigger is taken that could not be answered."""
    mapping = plc.mapping() | {word: address}
    if expected == "two words":
        mapping.pop("reject")
        expected = "type_unsuitable: verdict: Boolean"
    fault = await fault_of(plc_client(mapping))
    assert expected in fault
    assert plc.endpoint in fault
    assert "\n" not in fault


async def test_everything_wrong_is_named_at_once(plc: PlcServer) -> None:
    """An integrator corrects his mapping once; the text on an unknown namespace lists those that there are."""
    wrong = {"reject": "ns=2;s=x", "trigger": "nsu=urn:other;s=y", "verdict": f"{ODD}.read_only"}
    fault = await fault_of(plc_client(plc.mapping() | wrong))
    for expected in ("node_unknown: reject", "namespace_unknown: trigger", "access_denied: verdict", "it has "):
        assert expected in fault
    assert NAMESPACE_URI in fault


@pytest.mark.parametrize("name", ["derived", "enumeration", "abstract"])
async def test_derived_types_are_followed_to_what_they_are_made_of(plc: PlcServer, name: str) -> None:
    """A type of the PLC's own, an enumeration, and one that only its value tells."""
    adapter = plc_client(plc.mapping() | {"verdict": f"{ODD}.{name}"})
    async with serving(adapter, RecordingIntake()):
        await adapter.publish(answer(verdict(1, Decision.DAMAGED)))
    index = await plc.server.get_namespace_index(NAMESPACE_URI)
    assert await plc.server.get_node(node_id(f"odd.{name}", index)).read_value() == VerdictCode.DAMAGED


@pytest.mark.parametrize(
    ("word", "status", "expected"),
    [
        ("verdict", ua.StatusCodes.BadUserAccessDenied, "access_denied: verdict"),
        ("reject", ua.StatusCodes.BadTypeMismatch, "type_unsuitable: reject"),
        ("reject", ua.StatusCodes.BadOutOfMemory, "write_refused: reject"),
    ],
)
async def test_refused_write_is_found_at_the_start(plc: PlcServer, word: str, status: int, expected: str) -> None:
    """A PLC may say that a node can be written and refuse it all the same; then no trigger is taken."""
    with refusing(plc, word, status):
        assert expected in await fault_of(plc_client(plc.mapping()))


async def test_result_is_told_again_until_the_plc_has_all_of_it(plc: PlcServer) -> None:
    """While one node is refused the sequence stands; when it is taken again, the same result is written whole."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter, RecordingIntake()):
        with refusing(plc, "result_trigger_id", ua.StatusCodes.BadOutOfService):
            with pytest.raises(SinkUnavailable, match="write_refused: result_trigger_id: 7: BadOutOfService"):
                await adapter.publish(answer(verdict(1, trigger_id=7)))
            assert await plc.node("result_seq").read_value() == 0
        await eventually(lambda: adapter.fault is None)
        await adapter.publish(answer(verdict(1, trigger_id=7)))
        assert (await asyncio.wait_for(plc.result(), 10)).trigger_id == 7


async def test_an_answer_that_leaves_one_out_is_none(plc: PlcServer) -> None:
    """A PLC that does not say what became of each node is not taken at its word; the result is told again."""
    adapter = plc_client(plc.mapping())
    service = plc.server.iserver.attribute_service
    assert isinstance(service, StubbornPlc)
    async with serving(adapter, RecordingIntake()):
        service.forgets = True
        try:
            with pytest.raises(SinkUnavailable, match=r"server_refused: write: \d+ results for \d+"):
                await adapter.publish(answer(verdict(1, trigger_id=7)))
        finally:
            service.forgets = False
        await eventually(lambda: adapter.fault is None)
        await adapter.publish(answer(verdict(1, trigger_id=7)))
        assert (await asyncio.wait_for(plc.result(), 10)).trigger_id == 7


async def test_part_id_that_the_plc_cannot_hold_does_not_keep_the_verdict_from_it(plc: PlcServer) -> None:
    """A STRING[10] refuses a longer text: the result goes out without it."""
    adapter = plc_client(plc.mapping())
    too_long = "C" * 40
    async with serving(adapter, RecordingIntake()):
        with refusing(plc, "result_part_id", ua.StatusCodes.BadOutOfRange, value=too_long):
            await adapter.publish(answer(verdict(1, part_id=too_long, trigger_id=7)))
        result = await asyncio.wait_for(plc.result(), 10)
    assert (result.part_id, result.trigger_id, result.verdict) == ("", 7, VerdictCode.OK)


async def test_change_of_an_item_that_nobody_asked_for_is_a_fault(plc: PlcServer) -> None:
    """A server that mixes up its items may be silent of the trigger: it is asked anew, and no part is lost."""
    adapter = plc_client(plc.mapping())
    async with serving(adapter) as intake:
        for subscription in plc.server.iserver.subscription_service.subscriptions.values():
            for item in subscription.monitored_item_srv._monitored_items.values():
                item.client_handle = ua.UInt32(99)
        await plc.trigger("C-1")
        await eventually(lambda: "server_refused: the server tells of an item" in (adapter.fault or ""))
        await eventually(lambda: adapter.fault is None)
        assert (await asyncio.wait_for(intake.arrivals.get(), 10)).event.part_id == "C-1"


async def test_mapping_heals_when_the_plc_program_is_corrected(plc: PlcServer) -> None:
    """A node that appears later is found without a restart of the service."""
    index = await plc.server.get_namespace_index(NAMESPACE_URI)
    adapter = plc_client(plc.mapping() | {"verdict": f"{ODD}.late"})
    async with serving(adapter, connected=False):
        await eventually(lambda: "node_unknown: verdict" in (adapter.fault or ""))
        folder = plc.server.get_node(node_id("odd", index))
        late = await folder.add_variable(node_id("odd.late", index), f"{index}:late", 0, ua.VariantType.Int16)
        await late.set_writable()
        await eventually(lambda: adapter.fault is None)

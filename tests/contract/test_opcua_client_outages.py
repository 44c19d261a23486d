"""A PLC that is killed, restarted or frozen: what is given after that is judged, and nothing twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from asyncua import ua

from adapters.opcua.client.access import read_access
from adapters.opcua.client.connection import PlcConnection
from adapters.opcua.client.diagnosis import PlcUnusable
from adapters.simulation.broker import free_port
from schemas.settings import OpcUaClientSettings
from service.errors import SinkUnavailable
from tests.support.fakes import RecordingIntake
from tests.support.line import arrival
from tests.support.opcua import STATION, answer, verdict
from tests.support.plc import PlcProcess, plc_client, serving
from tests.support.waiting import eventually


@pytest_asyncio.fixture
async def plc() -> AsyncIterator[PlcProcess]:
    """Return a PLC process that has just been started."""
    process = PlcProcess(free_port())
    await process.start()
    yield process
    await process.kill()


async def test_triggers_after_each_restart_are_judged_once(plc: PlcProcess) -> None:
    """Killed and started with its namespaces renumbered and its counter at 1 again: the same numbers, other parts."""
    adapter = plc_client(plc.mapping)
    given = []
    async with serving(adapter) as intake:
        for life, namespaces in enumerate(((), ("urn:other",), ("urn:a", "urn:b"))):
            if life:
                await plc.kill()
                await eventually(lambda: adapter.fault is not None)
                assert adapter.fault is not None
                assert any(name in adapter.fault for name in ("connection_lost", "unreachable", "no_answer"))
                await plc.start(*namespaces)
            async with plc.program() as node:
                # the first is given at once: after a restart it may stand there before anybody looks
                given += [await plc.ask(node, trigger, f"C-{life}-{trigger}") for trigger in (1, 2)]
        arrivals = [intake.arrivals.get_nowait() for _ in range(intake.arrivals.qsize())]
    assert [arrival.event.part_id for arrival in arrivals] == given
    assert len({arrival.event.event_id for arrival in arrivals}) == len(given)


async def test_restart_of_the_service_judges_what_nobody_answered_and_nothing_else(plc: PlcProcess) -> None:
    """The PLC remembers in `result_trigger_id` what was answered; what nobody took ages by the PLC's clock."""
    async with plc.program() as node:
        async with serving(plc_client(plc.mapping)):
            await plc.ask(node, 7, "C-7")
        async with serving(plc_client(plc.mapping)) as again:
            await plc.ask(node, 8, "C-8")
            assert [again.arrivals.get_nowait().event.trigger_id for _ in range(again.arrivals.qsize())] == [8]
        await node("part_id").write_value("C-9")
        await node("trigger").write_value(9, ua.VariantType.UInt32)
        stood_s = 1.2
        await asyncio.sleep(stood_s)  # the PLC's clock is what is tested
        async with serving(plc_client(plc.mapping)) as third:
            arrival = await asyncio.wait_for(third.arrivals.get(), 20)
    assert (arrival.event.trigger_id, arrival.event.part_id) == (9, "C-9")
    age_s = asyncio.get_running_loop().time() - arrival.received_monotonic
    assert age_s > stood_s - 1.0  # asyncua's server sets its clock once a second


async def test_trigger_that_an_earlier_run_left_in_work_is_not_judged_again(plc: PlcProcess) -> None:
    """Killed after it took the trigger: the journal gives it again, and the PLC knows of no answer yet."""
    async with plc.program() as node:
        await node("part_id").write_value("C-7")
        await node("trigger").write_value(7, ua.VariantType.UInt32)
        intake, adapter = RecordingIntake(), plc_client(plc.mapping)
        intake.left_open = (replace(arrival("left", trigger_id=7), source=adapter.name),)
        async with serving(adapter, intake):
            await node("part_id").write_value("C-8")
            await node("trigger").write_value(8, ua.VariantType.UInt32)
            assert (await asyncio.wait_for(intake.arrivals.get(), 20)).event.trigger_id == 8
            assert intake.arrivals.empty()


async def test_frozen_plc_is_given_up_in_time_and_taken_up_again(plc: PlcProcess) -> None:
    """A write that gets no answer fails before the deadline; when the PLC thaws, results and triggers flow again."""
    adapter = plc_client(plc.mapping | {"request_timeout_ms": 700})
    async with plc.program() as node, serving(adapter, RecordingIntake()) as intake:
        plc.send(signal.SIGSTOP)
        try:
            async with asyncio.timeout(10):
                with pytest.raises(SinkUnavailable, match="no_answer"):
                    await adapter.publish(answer(verdict(1, trigger_id=5)))
            assert "no_answer" in (adapter.fault or "")
        finally:
            plc.send(signal.SIGCONT)
        await eventually(lambda: adapter.fault is None)
        await adapter.publish(answer(verdict(1, trigger_id=5)))
        assert await node("result_trigger_id").read_value() == 5
        await node("trigger").write_value(6, ua.VariantType.UInt32)
        assert (await asyncio.wait_for(intake.arrivals.get(), 20)).event.trigger_id == 6

        plc.send(signal.SIGSTOP)  # once more, with nothing to write that would show it
        try:
            await eventually(lambda: "no_answer" in (adapter.fault or ""))
        finally:
            plc.send(signal.SIGCONT)
        await eventually(lambda: adapter.fault is None)


class CancelledWithAnswer(asyncio.CancelledError):
    """What asyncua's wait makes of a cancellation in the moment in which an answer comes."""


async def test_limit_that_runs_out_as_the_answer_comes_is_no_cancellation(
    plc: PlcProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has cancelled the task, so it goes on, with a connection that is lost; one that is cancelled ends."""
    settings = OpcUaClientSettings.model_validate(plc.mapping)
    access = read_access(settings, settings.endpoint, station=STATION, pki=tmp_path, request_timeout_s=0.05)
    asked = asyncio.Event()

    async def answers_too_late(_parameters: ua.ReadParameters) -> list[ua.DataValue]:
        asked.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as exc:
            raise CancelledWithAnswer from exc
        return []

    connection = PlcConnection(access)
    await connection.open()
    monkeypatch.setattr(connection._client.uaclient, "read", answers_too_late)
    try:
        with pytest.raises(PlcUnusable, match="no_answer"):
            await connection.read([ua.NodeId(ua.Int32(1))])
        assert connection.lost.done()
        asked.clear()
        reading = asyncio.create_task(connection.read([ua.NodeId(ua.Int32(1))]))
        await asked.wait()
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
    finally:
        await connection.close("the test is over")

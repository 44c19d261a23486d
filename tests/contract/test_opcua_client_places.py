"""A PLC with room for one session: what a lost connection left there does not keep its place."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.internal_session import InternalSession
from structlog.testing import capture_logs

from adapters.opcua.client.diagnosis import Diagnosis, PlcFault
from adapters.simulation.plc_server import PlcServer
from tests.support.plc import plc_client, serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_session_that_was_lost_makes_room_for_the_next(plc: PlcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server would keep it for half a minute; it is closed from a channel of its own, with its subscriptions."""
    server = plc.server.iserver
    create = server.create_session

    def create_one(*arguments: Any, **more: Any) -> InternalSession:
        if more.get("external") and server._external_sessions:
            raise ServiceError(ua.UInt32(ua.StatusCodes.BadTooManySessions))
        return create(*arguments, **more)

    monkeypatch.setattr(server, "create_session", create_one)
    adapter = plc_client(plc.mapping())
    with capture_logs() as logs:
        async with serving(adapter) as intake:
            for part_id in ("C-1", "C-2", "C-3"):
                await plc.trigger(part_id)
                assert (await asyncio.wait_for(intake.arrivals.get(), 10)).event.part_id == part_id
                assert (await asyncio.wait_for(plc.result(), 10)).part_id == part_id
                assert adapter._connection is not None
                adapter._connection.abort(Diagnosis(PlcFault.CONNECTION_LOST, "by the test"))
                await eventually(lambda: adapter.fault is None)
                assert len(server.subscription_service.subscriptions) == 1
    assert [entry["event"] for entry in logs].count("plc_session_given_back") == 3

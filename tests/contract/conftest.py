"""The databases that a journal may lie in, and the station that clients of its OPC UA server ask."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from asyncua import Client

from adapters.simulation.broker import free_port
from adapters.simulation.plc_server import PlcServer
from schemas.settings import JournalSettings
from tests.support.opcua import ServedStation, plain_client, served_station
from tests.support.opcua_channels import channel
from tests.support.postgresql import PostgresqlServer

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JournalSettings]:
    """Settings of a journal in a database that is empty."""
    if request.param == "sqlite":
        yield JournalSettings(url=f"sqlite:///{tmp_path / 'sub' / 'journal.sqlite'}")
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        with server.database() as name:
            yield JournalSettings(url=server.url(name), folder=tmp_path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServedStation]:
    """Serve one station for all tests of a file: to start a server takes a second."""
    async with served_station(tmp_path_factory.mktemp("pki")) as station:
        yield station


@pytest_asyncio.fixture(loop_scope="module")
async def station(served: ServedStation) -> ServedStation:
    """Return the station as it is after its start, ready, with nothing judged yet."""
    await served.start_again()
    return served


@pytest_asyncio.fixture(loop_scope="module")
async def flooder(station: ServedStation) -> AsyncIterator[Client]:
    """A client beside the station's own, whose subscriptions end with it."""
    async with plain_client(station.adapter.endpoint) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def one(station: ServedStation) -> AsyncIterator[Client]:
    """A client with an open channel and no session."""
    async with channel(station.adapter.endpoint) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def other(station: ServedStation) -> AsyncIterator[Client]:
    """Another one."""
    async with channel(station.adapter.endpoint) as client:
        yield client


@pytest.fixture
def without_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client asks for, no defect is logged."""
    yield
    records = caplog.get_records("call")
    assert [record.getMessage() for record in records if record.exc_info and record.levelno > logging.DEBUG] == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served_plc() -> AsyncIterator[PlcServer]:
    """Serve one PLC for all tests of a file: to start a server takes a second."""
    async with PlcServer(free_port()) as plc:
        yield plc


@pytest_asyncio.fixture(loop_scope="module")
async def plc(served_plc: PlcServer) -> PlcServer:
    """Return the PLC as it is after its start."""
    await served_plc.start_again()
    return served_plc

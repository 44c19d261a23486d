"""The service as the thread of the pages sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from schemas.messages import Status
from service.ports import Journal, StationView, VerdictQuery

T = TypeVar("T")


class Bridge:
    """Carries questions from the thread of the pages to the loop of the service, and the answers back.

    Journal and station belong to that loop. While it is stuck no question is answered: a page says so and turns grey,
    and /healthz times out, as they should.
    """

    def __init__(self, view: StationView, journal: Journal) -> None:
        self._view = view
        self._journal = journal
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self) -> None:
        """Answer questions on the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    async def status(self) -> Status:
        """Return the state of the station now."""

        async def ask() -> Status:
            return self._view.status()

        return await self._there(ask())

    async def not_ready(self) -> Sequence[str]:
        """Return why the station cannot work; empty while it can."""

        async def ask() -> Sequence[str]:
            return self._view.not_ready()

        return await self._there(ask())

    async def verdicts(self, query: VerdictQuery) -> Sequence[bytes]:
        """Return stored verdicts, newest first. Raises JournalError."""
        return await self._there(self._journal.page(query))

    async def verdict(self, event_id: str) -> bytes | None:
        """Return the stored verdict on an event, None where there is none. Raises JournalError."""
        return await self._there(self._journal.find(event_id))

    async def _there(self, question: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(question, self._loop))

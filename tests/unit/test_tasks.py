"""What keeps the tasks of a service running, and together."""

from __future__ import annotations

import asyncio

import pytest

from service import tasks
from service.tasks import supervise, together


class Work:
    """Work that ends as it is told to, then goes on for ever."""

    def __init__(self, *ends: BaseException | None) -> None:
        self._ends = list(ends)
        self.serving = asyncio.Event()

    async def run(self) -> None:
        if not self._ends:
            self.serving.set()
            await asyncio.Event().wait()
        end = self._ends.pop(0)
        if end is not None:
            raise end


@pytest.mark.parametrize("end", [None, RuntimeError("a defect"), asyncio.CancelledError()])
async def test_supervise_starts_a_task_again(end: BaseException | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a task ends, it comes back: also by a cancellation of its own that a library let through."""
    monkeypatch.setattr(tasks, "_RESTART_S", (0.001, 0.001))
    work = Work(end, end)
    keeper = asyncio.create_task(supervise("work", work.run))
    await asyncio.wait_for(work.serving.wait(), 5)
    keeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(keeper, 5)


async def test_supervise_ends_with_its_service() -> None:
    """Cancelled itself, it ends at once, whatever the task was at."""
    work = Work()
    keeper = asyncio.create_task(supervise("work", work.run))
    await work.serving.wait()
    keeper.cancel()
    done, _ = await asyncio.wait({keeper}, timeout=5)
    assert done
    assert keeper.cancelled()


@pytest.mark.parametrize("end", [None, RuntimeError("a defect"), asyncio.CancelledError()])
async def test_tasks_that_belong_together_end_together(end: BaseException | None) -> None:
    """However one ends, the others do not go on without it, and whoever keeps them running hears of it."""
    others = [Work(), Work()]
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(together(("one", Work(end).run), *(("other", each.run) for each in others)), 5)


async def test_tasks_that_belong_together_end_with_their_service() -> None:
    """Cancelled itself, it ends as a task does that was cancelled."""
    work = Work()
    running = asyncio.create_task(together(("one", work.run), ("other", Work().run)))
    await work.serving.wait()
    running.cancel()
    await asyncio.wait({running}, timeout=5)
    assert running.cancelled()

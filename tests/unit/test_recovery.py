"""Getting a model back that fails, and saying so where it cannot be had."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

from schemas.settings import ComputeSettings, IntakeSettings
from service.admission import Admission
from service.compute import Compute
from service.errors import PackageRefused
from service.model.active import ActiveModel
from service.ports import Clock
from service.recovery import Recovery
from tests.support.clock import HandClock
from tests.support.line import CLOCK, OneFrame
from tests.support.waiting import eventually, loop_turns


class Device:
    """A model on a device that fails as it is told: `broken` until it is loaded anew, `gone` for good."""

    def __init__(self, frames: int = 1) -> None:
        self.frames = frames
        self.broken = False
        self.gone = False
        self.loads = 0
        self.asked = 0

    def proofs(self) -> list[Callable[[], None]]:
        self.asked += 1
        return [self.prove] * self.frames

    def prove(self) -> None:
        if self.broken or self.gone:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def was_loaded(self, times: int) -> bool:
        return self.loads == times

    async def reload(self) -> None:
        self.loads += 1
        if self.gone:
            raise PackageRefused("no CUDA-capable device is detected")
        self.broken = False


@asynccontextmanager
async def a_recovery(device: Device, clock: Clock = CLOCK) -> AsyncIterator[Recovery]:
    admission = Admission(IntakeSettings(), clock=clock, places=1)
    compute = Compute(OneFrame(), admission=admission, settings=ComputeSettings(), max_batch=1)
    recovery = Recovery(compute, cast("ActiveModel", device), clock=clock)
    running = asyncio.create_task(recovery.run())
    try:
        yield recovery
    finally:
        running.cancel()
        compute.close()


async def test_recovery_leaves_a_model_alone_that_proves_well() -> None:
    """A frame that cannot be judged is no fault of the model: nothing is loaded anew."""
    device = Device()
    async with a_recovery(device) as recovery:
        recovery.report("ValueError: a distance is not finite")
        await eventually(lambda: device.asked == 1)
        assert (device.loads, recovery.fault) == (0, None)


class Slow(Device):
    """A model whose first golden frame is in work until `go`; says what the judging thread did, in order."""

    def __init__(self) -> None:
        super().__init__(frames=3)
        self.began, self.go = threading.Event(), threading.Event()
        self.done: list[str] = []

    def prove(self) -> None:
        self.began.set()
        assert self.go.wait(20)
        self.done.append("golden frame")


async def test_recovery_proves_one_golden_frame_a_call() -> None:
    """Only one counts for a thread that hangs, however slow the model; and a part that waits goes in between."""
    device = Slow()
    async with a_recovery(device) as recovery:
        recovery.report("ValueError: a distance is not finite")
        await eventually(device.began.is_set)
        part = recovery._compute.on_judge_thread(lambda: device.done.append("part"))
        device.go.set()
        await part
        await eventually(lambda: len(device.done) == 4)
        assert device.done == ["golden frame", "part", "golden frame", "golden frame"]
        assert (device.loads, recovery.fault) == (0, None)


async def test_recovery_loads_a_failing_model_anew() -> None:
    """Memory that ran out, a context that broke: one new load, no fault."""
    device = Device()
    device.broken = True
    async with a_recovery(device) as recovery:
        recovery.report("RuntimeError: CUDA out of memory")
        await eventually(lambda: device.asked == 2)
        assert (device.loads, recovery.fault) == (1, None)


async def test_recovery_says_that_a_device_is_gone_and_tries_on() -> None:
    """A lost device is a fault by name; a try is made at once when asked for, and the fault ends when it works."""
    device = Device()
    device.gone = True
    async with a_recovery(device) as recovery:
        assert not recovery.given_up(0.0)
        recovery.report("RuntimeError: CUDA error: unspecified launch failure")
        await eventually(lambda: recovery.fault is not None)
        assert recovery.fault is not None
        assert recovery.fault.startswith("RuntimeError: CUDA error: unspecified launch failure; tried again")
        assert "no CUDA-capable device" in recovery.fault
        await eventually(lambda: recovery.given_up(0.0))
        assert not recovery.given_up(3600.0)
        device.gone = False
        recovery.retry()
        await eventually(lambda: recovery.fault is None)
        assert not recovery.given_up(0.0)


async def test_recovery_is_given_up_by_when_it_began_to_fail() -> None:
    """Each try in vain is no fresh start: systemd must hear some day that only a new process helps."""
    device, clock = Device(), HandClock()
    clock.seconds = 1.0
    device.gone = True
    async with a_recovery(device, clock) as recovery:
        recovery.report("RuntimeError: CUDA error")
        for tries in range(1, 4):
            await eventually(partial(device.was_loaded, tries))
            await loop_turns(10)
            clock.seconds += 10
            recovery.retry()
        assert recovery.given_up(29.0)
        assert not recovery.given_up(30.0)


async def test_recovery_tries_again_by_itself() -> None:
    """Nobody has to ask."""
    device = Device()
    device.gone = True
    async with a_recovery(device) as recovery:
        recovery.report("RuntimeError: CUDA error")
        await eventually(lambda: device.loads >= 2)
        device.gone = False
        await eventually(lambda: recovery.fault is None)

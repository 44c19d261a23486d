"""What is done when judging fails for no fault of a frame: the model is proved, and loaded anew where it fails."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress

import structlog

from service.compute import Compute
from service.errors import PackageError, brief
from service.model.active import ActiveModel
from service.ports import Clock
from service.threads import ThreadStuck

log = structlog.get_logger(__name__)

_RETRY_S = (1.0, 30.0)
_CALM_S = 1.0
"""A frame that cannot be judged must not keep the judging thread busy with proofs."""


class Recovery:
    """Proves the model on its golden frames after trouble: no memory left, a device that is gone, a thread that hung.

    Where the proof fails, the model is loaded anew; where that does not help either, the station is in fault and it is
    tried again with growing pauses. A CUDA context that has failed once fails for ever: only a new process helps, and
    systemd starts one when it is no longer told that all is well (`given_up`).

    Args:
        compute: whose thread may use the model.
        models: the model.
        clock: for how long it has failed.
    """

    def __init__(self, compute: Compute, models: ActiveModel, *, clock: Clock) -> None:
        self._compute = compute
        self._models = models
        self._clock = clock
        self._trouble: str | None = None
        self._news = asyncio.Event()
        self._retry = asyncio.Event()
        self._failing_since: float | None = None
        self.fault: str | None = None

    def report(self, trouble: str) -> None:
        """Have the model proved soon, because of `trouble`."""
        self._trouble = trouble
        self._news.set()

    def retry(self) -> None:
        """Try at once where the next try is some time away."""
        self._retry.set()

    def given_up(self, after_s: float) -> bool:
        """Tell whether recovery has failed for longer than `after_s`."""
        return self._failing_since is not None and self._clock.monotonic() - self._failing_since > after_s

    async def run(self) -> None:
        """Recover whenever there is trouble, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            log.warning("compute_trouble", trouble=self._trouble)
            pause_s, longest_s = _RETRY_S
            while (failure := await self._proof()) is not None and (failure := await self._renewed()) is not None:
                self._failing_since = self._failing_since or self._clock.monotonic()
                self.fault = f"{self._trouble}; tried again without success: {failure}"
                log.error("compute_failing", fault=self.fault)
                self._retry.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._retry.wait()
                pause_s = min(longest_s, pause_s * 2)
            self.fault = self._failing_since = None
            log.info("compute_proved")
            await asyncio.sleep(_CALM_S)

    async def _proof(self) -> str | None:
        """Return why the model cannot judge its golden frames, None where it can."""
        try:
            for proof in self._models.proofs():
                await self._compute.on_judge_thread(proof)
        except ThreadStuck as exc:
            return str(exc)
        except Exception as exc:  # noqa: BLE001 - whatever a driver raises: this is where it is dealt with
            return brief(exc)
        return None

    async def _renewed(self) -> str | None:
        """Load the model anew and prove it."""
        gc.collect()
        try:
            await self._models.reload()
        except PackageError as exc:
            return str(exc)
        except Exception as exc:  # noqa: BLE001 - as above
            return brief(exc)
        return await self._proof()

"""The model that judges now, and how it is exchanged while the line runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import structlog
import torch

from schemas.settings import ModelSettings
from service.compute import LoadedModel
from service.device import release_memory
from service.errors import PackageError, brief
from service.model.package import ModelPackage, read_package
from service.model.registry import ModelRegistry
from service.ports import StoredModel

log = structlog.get_logger(__name__)

_RETRY_S = (5.0, 60.0)
"""How soon, and at last how often, a model that the store did not give is looked for again: a share that is mounted
late, a first training. To find a large one damaged takes a moment each time."""


class ActiveModel:
    """Holds the loaded model; loading runs beside the line and the exchange is one assignment.

    on_unloaded: called when there is none any more, so that the station can say so at once.
    on_trouble: called with what kept a model from being loaded where that was not the model. on_loaded: called when one
    judges from now on.
    """

    def __init__(self, settings: ModelSettings, *, device: torch.device) -> None:
        self._settings = settings
        self._device = device
        self._registry = ModelRegistry(settings.store)
        self._exchange = asyncio.Lock()
        self._package: ModelPackage | None = None
        self._activated: str | None = None
        """Version that was last made the active one here, though it may not have loaded then."""

        self._missed = False
        """Whether the configured model is still to be loaded, once what kept it from that is over."""

        self._absent = False
        """Whether the store did not give the configured model."""

        self.on_unloaded: Callable[[], None] = lambda: None
        self.on_trouble: Callable[[str], None] = lambda _: None
        self.on_loaded: Callable[[], None] = lambda: None
        self.current: LoadedModel | None = None
        self.fault: str | None = (
            f"model {settings.name} is being loaded"
            if settings.name
            else "no model is configured (model.name is empty)"
        )

    async def load(self) -> None:
        """Load the configured model; where that fails there is no model, and `fault` says why."""
        name = self._settings.name
        if not name:
            return
        async with self._exchange:
            await self._load(name)

    async def keep_looking(self) -> None:
        """Load the configured model as soon as the store gives it, where it did not at first; until cancelled."""
        pause_s, longest_s = _RETRY_S
        while True:
            await asyncio.sleep(pause_s)
            async with self._exchange:
                if self._absent:
                    await self._load(self._settings.name)
                    pause_s = min(longest_s, 2 * pause_s)

    async def activate(self, name: str, version: str) -> LoadedModel:
        """Activate a version in the store and judge with it from now on. Raises CangateError; the old one stays."""
        async with self._exchange:
            return await self._activate(name, version)

    async def reload(self) -> None:
        """Read and build the model that judges once more, after its device was lost or ran out of memory.

        Or the one that could not be loaded. Raises whatever the device raises, and PackageError; the old one stays.
        """
        async with self._exchange:
            package = self._package
            release_memory()
            if self._missed:
                await self._take(self._settings.reference)
            elif package is not None:
                pipeline = await asyncio.to_thread(package.build_pipeline, self._device)
                self.current = LoadedModel(pipeline, package.ref)

    def proofs(self) -> Sequence[Callable[[], object]]:
        """Return what proves the model that judges, for the thread that may use it: a call for each golden frame.

        Each judges its frame, and no more: the thread counts as hung when one call takes too long. Raises PackageError
        while the configured model is still to be loaded; a call raises that too, and whatever the device raises.
        """
        package, current = self._package, self.current
        if self._missed:
            raise PackageError(f"model {self._settings.name} is not loaded")
        if package is None or current is None:
            return []
        manifest = package.manifest
        return [
            partial(
                replace(package, manifest=manifest.model_copy(update={"golden": (golden,)})).check_golden,
                current.pipeline,
            )
            for golden in manifest.golden
        ]

    async def rollback(self, name: str | None) -> LoadedModel:
        """Go back to the version that was active before. Raises PackageError; the old one stays.

        Refused where another station of the same store, or a person, has activated something since: what came before
        that is not what came before here. Where they have gone back themselves from what judges here, it goes along:
        a command reaches every worker of a share group.
        """
        async with self._exchange:
            name = name or self._name()
            await asyncio.to_thread(self._refuse_rollback_of_others, name)
            self._activated = await asyncio.to_thread(self._go_back, name)
            return await self._take(name)

    async def set_threshold(self, tau: float) -> LoadedModel:
        """Make the next version of the model that judges with another tau, and judge with it. Raises CangateError."""
        async with self._exchange:
            name, judging = self._name(), None if self.current is None else self.current.ref
            version = await asyncio.to_thread(self._registry.add_with_threshold, name, tau, judging=judging)
            return await self._activate(name, version)

    async def stored(self) -> Sequence[StoredModel]:
        """Return every version in the store, by name and age."""
        return await asyncio.to_thread(self._stored)

    async def unload(self) -> None:
        """Judge no more until a model is activated; the version that is active in the store stays so."""
        async with self._exchange:
            self.current, self.fault = None, "the model was unloaded"
            self._missed = self._absent = False
            log.info("model_unloaded")
            self.on_unloaded()

    async def _load(self, name: str) -> None:
        try:
            await self._take(self._settings.reference)
        except PackageError as exc:
            if self.fault != str(exc):  # told once, not at each look
                log.error("model_unavailable", model=name, error=str(exc))
            self.fault, self._absent = str(exc), True
        except Exception as exc:  # whatever a driver raises: the line is answered all the same
            self.fault, self._missed, self._absent = brief(exc), True, False
            log.exception("model_not_loaded", model=name)
            self.on_trouble(self.fault)

    def _go_back(self, name: str) -> str:
        judging = None if self.current is None or self.current.ref.name != name else self.current.ref
        if self._registry.active(name) == self._activated:
            judging = None  # nobody else has gone back: what was activated here last need not even have loaded
        return self._registry.rollback(name, device=self._device, judging=judging)

    def _refuse_rollback_of_others(self, name: str) -> None:
        judging = None if self.current is None else self.current.ref
        if self._settings.version != "active" or judging is None or judging.name != name:
            return
        active = self._registry.active(name)
        if active not in (None, judging.version, self._activated) and not self._registry.was_rolled_back(name, judging):
            raise PackageError(
                f"{name}@{active} was activated elsewhere while {name}@{judging.version} judges here: "
                "activate the version that is wanted"
            )

    def _stored(self) -> list[StoredModel]:
        registry = self._registry
        return [StoredModel(name, version) for name in registry.names() for version in registry.versions(name)]

    def _name(self) -> str:
        if self.current is not None:
            return self.current.ref.name
        if self._settings.name:
            return self._settings.name
        raise PackageError("no model is loaded and none is configured")

    async def _activate(self, name: str, version: str) -> LoadedModel:
        # where the configuration names a version, what judges need not be what is active in the store
        judging = None if self.current is None or self.current.ref.name != name else self.current.ref
        await asyncio.to_thread(self._registry.activate, name, version, device=self._device, instead_of=judging)
        self._activated = version
        return await self._take(name)

    async def _take(self, reference: str) -> LoadedModel:
        package, loaded = await asyncio.to_thread(self._read, reference)
        self._package, self.current, self.fault = package, loaded, None
        self._missed = self._absent = False
        log.info("model_loaded", model=loaded.ref.name, version=loaded.ref.version, sha256=loaded.ref.sha256)
        self.on_loaded()
        return loaded

    def _read(self, reference: str) -> tuple[ModelPackage, LoadedModel]:
        package = read_package(self._registry.resolve(reference))
        return package, LoadedModel(package.build_pipeline(self._device), package.ref)

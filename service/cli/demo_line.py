"""The line of `cangate demo`: training, broker, service, PLC and camera, side by side."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.frames import decode_image
from adapters.simulation.broker import RunningBroker, free_port, start_broker
from adapters.simulation.camera import Shot, SimulatedCamera
from adapters.simulation.damage import random_damage
from adapters.simulation.plc import GateAction, PlcGate
from adapters.simulation.renderer import fast_png, render_canister
from schemas.settings import (
    DeadlineSettings,
    HttpSettings,
    ImageSettings,
    JournalSettings,
    ModelSettings,
    MqttSettings,
    OpcUaServerSettings,
    OpcUaSettings,
    Settings,
    StationSettings,
)
from service.bootstrap import Service, serve
from service.cli.frame_folders import listed_frames
from service.cli.from_settings import device_of, frame_decoder
from service.errors import CangateError
from service.files import naming
from service.model.dataset import FrameFile, list_frames, printable
from service.model.registry import ModelRegistry
from service.model.training import TrainingOptions, train
from service.pipeline.types import BgrImage, StageProgress
from service.prefetch import prefetched
from service.text import without_controls

NAME = "demo"
"""Of the station and of the model."""

DEADLINE_MS = 5000
"""Longer than on a real line: camera, PLC, broker and page share this machine with the inspection."""

_TRAINING_PARTS = 60
_TRAINING_SEED = 1_000_000

_DAMAGED_EVERY = 3
_MAX_PIXELS = 64_000_000
_START_S = 20.0
_ACTION_S = 5.0


@dataclass(frozen=True, slots=True)
class DemoPart:
    """One part at the end of its way: what the camera got back, what the gate did, what the part really was."""

    shot: Shot
    action: GateAction | None
    truth: str


@dataclass(frozen=True, slots=True)
class DemoLine:
    """A whole line on this machine.

    folder: for everything it writes. frames: pictures to judge instead of rendered canisters; then the model is trained
    on these very pictures, as frames that may hold damaged parts. say: is told where things listen.
    """

    folder: Path
    parts: int
    rate_hz: float
    frames: Path | None
    http_port: int
    say: Callable[[str], None]
    progress: StageProgress

    async def run(self) -> AsyncGenerator[DemoPart, None]:
        """Start everything, show the parts and yield each with what came of it; stop everything."""
        async with start_broker() as broker:
            self.say(f"broker  {broker.kind} on {broker.host}:{broker.port}, MQTT {broker.protocol}")
            settings = self._settings(broker)
            stop = asyncio.Event()
            started: asyncio.Future[Service] = asyncio.get_running_loop().create_future()
            serving = asyncio.create_task(
                serve(settings, stop, take_free_http_port=True, on_started=started.set_result), name="service"
            )
            try:
                hmi = (await _started(started, serving)).hmi
                if hmi is not None:
                    self.say(f"page    {hmi.url}")
                async with aclosing(self._show_parts(settings)) as shown:
                    async for part in shown:
                        yield part
            finally:
                stop.set()
                await serving

    async def _show_parts(self, settings: Settings) -> AsyncGenerator[DemoPart, None]:
        endpoint = f"opc.tcp://{settings.opcua.server.host}:{settings.opcua.server.port}/cangate/"
        gate = PlcGate(endpoint, NAME, hold_s=DEADLINE_MS / 1000)
        watching = asyncio.create_task(gate.run(), name="plc")
        actions = gate.actions()
        done: dict[str, GateAction] = {}
        truths: dict[str, str] = {}
        try:
            await _within(gate.connected.wait(), _START_S, "the PLC could not connect to the OPC UA server")
            self.say(f"opc ua  {endpoint}")
            camera = SimulatedCamera(
                settings.mqtt, station=NAME, folder=self.folder / "frames", deadline_ms=DEADLINE_MS
            )
            async with camera:
                async for shot in camera.run(self._supply(truths), rate_hz=self.rate_hz):
                    event_id = shot.event.event_id
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_ACTION_S):
                            while event_id not in done:
                                action = await anext(actions)
                                done[action.event_id] = action
                    yield DemoPart(shot, done.pop(event_id, None), truths.pop(shot.event.part_id or "", ""))
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    def _supply(self, truths: dict[str, str]) -> Iterator[tuple[str, BgrImage]]:
        numbers = itertools.count(1) if self.parts == 0 else range(1, self.parts + 1)
        pictures = None if self.frames is None else itertools.cycle(list_frames(self.frames).frames)
        for number in numbers:
            part_id = f"C-{number:06d}"
            if pictures is not None:
                picture = next(pictures)
                truths[part_id] = without_controls(printable(picture.name))
                yield part_id, _read(picture)
            else:
                damage = random_damage(np.random.default_rng(number)) if number % _DAMAGED_EVERY == 0 else None
                truths[part_id] = "good" if damage is None else damage.kind.value
                yield part_id, render_canister(number, damage=damage).bgr

    def train(self) -> None:
        """Make and activate the model of the line."""
        files = self._render_training_parts() if self.frames is None else listed_frames(self.frames).frames
        settings = Settings()
        trained = train(
            NAME,
            files,
            settings.recipe,
            TrainingOptions(mixed=self.frames is not None),
            decode=frame_decoder(settings),
            device=device_of(settings),
            progress=self.progress,
        )
        registry = ModelRegistry(self.folder / "models")
        version = trained.publish(registry).name
        registry.activate(NAME, version)
        manifest = trained.manifest
        parts = len(manifest.training.frames)
        self.say(f"model   {NAME}@{version}, trained on {parts} parts, tau {manifest.tau:.4f}")

    def _render_training_parts(self) -> tuple[FrameFile, ...]:
        folder = self.folder / "ok"
        folder.mkdir()

        def render(number: int) -> None:
            path = folder / f"{number:03d}.png"
            picture = fast_png(render_canister(_TRAINING_SEED + number).bgr)
            with naming(path):
                path.write_bytes(picture)

        for number, rendered in prefetched(render, range(_TRAINING_PARTS), os.cpu_count() or 1):
            rendered.result()
            self.progress("render", number + 1, _TRAINING_PARTS)
        return list_frames(folder).frames

    def _settings(self, broker: RunningBroker) -> Settings:
        frames = self.folder / "frames"
        frames.mkdir()
        return Settings(
            station=StationSettings(id=NAME),
            deadline=DeadlineSettings(default_ms=DEADLINE_MS),
            mqtt=MqttSettings(host=broker.host, port=broker.port, protocol=broker.protocol),
            opcua=OpcUaSettings(server=OpcUaServerSettings(port=free_port())),
            http=HttpSettings(port=self.http_port),
            images=ImageSettings(roots=(frames,), store=self.folder / "images"),
            journal=JournalSettings(url=f"sqlite:///{self.folder / 'journal.sqlite'}"),
            model=ModelSettings(name=NAME, store=self.folder / "models"),
        )


async def _started(started: asyncio.Future[Service], serving: asyncio.Task[None]) -> Service:
    """Return the service once it has started; where it cannot, raise what `serving` does."""
    # a future awaited by itself would be cancelled with us, and the service could not say any more that it has started
    either: tuple[asyncio.Future[Service] | asyncio.Future[None], ...] = (started, serving)
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not started.done():
        await serving
        raise CangateError("the service ended before it had started")
    return started.result()


def _read(picture: FrameFile) -> BgrImage:
    return decode_image(picture.path.read_bytes(), max_pixels=_MAX_PIXELS)


async def _within(waiting: Awaitable[object], limit_s: float, otherwise: str) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await waiting
    except TimeoutError as exc:
        raise CangateError(otherwise) from exc

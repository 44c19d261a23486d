"""The model that judges, and what commands make of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch

from schemas.settings import ModelSettings
from service.compute import LoadedModel
from service.errors import PackageError, PackageRefused
from service.model import active
from service.model.active import ActiveModel
from service.model.package import ModelPackage, read_package, seal
from service.model.registry import ModelRegistry
from service.model.training import TrainedModel
from service.pipeline.pipeline import Pipeline
from service.pipeline.types import Frame, Inspection
from tests.support.waiting import eventually, loop_turns

CPU = torch.device("cpu")


@pytest.fixture
def registry(tmp_path: Path, trained: TrainedModel) -> ModelRegistry:
    """A store with two versions, of which the second is active; they differ in tau."""
    registry = ModelRegistry(tmp_path / "models")
    trained.publish(registry)
    registry.activate("bars", "1")
    registry.activate("bars", registry.add_with_threshold("bars", 0.5))
    return registry


async def _loaded(registry: ModelRegistry, version: str) -> ActiveModel:
    models = ActiveModel(ModelSettings(name="bars", version=version, store=registry.store), device=CPU)
    await models.load()
    return models


def test_model_that_is_configured_is_being_loaded_at_first(tmp_path: Path) -> None:
    """Whoever asks meanwhile is not told that none is configured."""
    assert ActiveModel(ModelSettings(name="bars", store=tmp_path), device=CPU).fault == "model bars is being loaded"
    nothing = ActiveModel(ModelSettings(store=tmp_path), device=CPU)
    assert nothing.fault == "no model is configured (model.name is empty)"


@pytest.mark.parametrize(("configured", "parent"), [("1", "1"), ("active", "2")])
async def test_threshold_is_set_on_what_judges(registry: ModelRegistry, configured: str, parent: str) -> None:
    """Whichever version is active in the store; and rollback goes back to what judged before."""
    models = await _loaded(registry, configured)
    before = models.current
    assert before is not None
    assert before.ref.version == parent
    changed = await models.set_threshold(0.75)
    assert changed.ref.version == "3"
    manifest = registry.read("bars", "3").manifest
    assert (manifest.tau, manifest.parent) == (0.75, before.ref.sha256)
    back = await models.rollback(None)
    assert back.ref == before.ref
    assert registry.active("bars") == parent


async def test_threshold_is_set_on_a_version_that_never_was_active(
    registry: ModelRegistry, trained: TrainedModel
) -> None:
    """The configuration names it, and no pointer in the store needs to."""
    trained.publish(registry)
    (registry.store / "bars" / "active.json").unlink()
    models = await _loaded(registry, "3")
    assert (await models.set_threshold(0.75)).ref.version == "4"
    assert (await models.rollback(None)).ref.version == "3"


async def test_rollback_of_what_another_station_activated_is_refused(registry: ModelRegistry) -> None:
    """Stations may share a store; what judges here stays."""
    here, there = await _loaded(registry, "active"), await _loaded(registry, "active")
    before = here.current
    await there.set_threshold(0.75)
    with pytest.raises(PackageError, match="bars@3 was activated elsewhere while bars@2 judges here"):
        await here.rollback(None)
    assert here.current == before
    assert registry.active("bars") == "3"


@pytest.mark.parametrize("at_once", [False, True])
async def test_workers_of_one_store_change_and_go_back_together(registry: ModelRegistry, *, at_once: bool) -> None:
    """A command reaches each worker of a share group: they judge alike before and behind it, and it counts once."""
    workers = [await _loaded(registry, "active") for _ in range(3)]

    async def all_of_them(*changes: Coroutine[Any, Any, LoadedModel]) -> set[str]:
        if at_once:
            return {loaded.ref.version for loaded in await asyncio.gather(*changes)}
        return {(await change).ref.version for change in changes}

    assert await all_of_them(*(worker.set_threshold(0.75) for worker in workers)) == {"3"}
    assert await all_of_them(*(worker.set_threshold(0.8) for worker in workers)) == {"4"}
    assert await all_of_them(*(worker.rollback(None) for worker in workers)) == {"3"}
    assert await all_of_them(*(worker.rollback("bars") for worker in workers)) == {"2"}
    assert await all_of_them(*(worker.activate("bars", "4") for worker in workers)) == {"4"}
    assert await all_of_them(*(worker.rollback(None) for worker in workers)) == {"2"}
    assert registry.versions("bars") == ["1", "2", "3", "4"]


async def test_second_rollback_gets_past_a_version_that_cannot_be_loaded(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the active one in the store, and what judges here is still the one that was given up."""
    models = await _loaded(registry, "active")
    await models.set_threshold(0.75)
    with monkeypatch.context() as patched:
        patched.setattr(models, "_read", _refuses)
        with pytest.raises(PackageRefused):
            await models.rollback(None)
    assert registry.active("bars") == "2"
    assert (await models.rollback(None)).ref.version == "1"


def _refuses(_: str) -> tuple[ModelPackage, LoadedModel]:
    raise PackageRefused("the device has no memory left")


async def test_rollback_after_an_activation_goes_to_what_judged(registry: ModelRegistry) -> None:
    """Not to what was active in the store beside it; that comes next."""
    models = await _loaded(registry, "1")
    third = registry.add_with_threshold("bars", 0.75)
    await models.activate("bars", third)
    assert (await models.rollback(None)).ref.version == "1"
    assert (await models.rollback(None)).ref.version == "2"


async def test_threshold_is_not_set_on_a_package_that_was_exchanged(registry: ModelRegistry) -> None:
    """What lies there now is not what judges; the old one goes on."""
    models = await _loaded(registry, "1")
    path = registry.store / "bars" / "1"
    seal(path, read_package(path).manifest.model_copy(update={"tau": 9.0}))
    with pytest.raises(PackageRefused, match=f"{path} is not the package that judges"):
        await models.set_threshold(0.75)
    assert registry.versions("bars") == ["1", "2"]
    assert models.current is not None
    assert models.current.ref.version == "1"


async def test_rollback_to_a_package_that_was_exchanged_is_refused(registry: ModelRegistry) -> None:
    """Its golden frames may reproduce all the same: the threshold is another one."""
    path = registry.store / "bars" / "1"
    seal(path, read_package(path).manifest.model_copy(update={"tau": 9.0}))
    models = await _loaded(registry, "active")
    with pytest.raises(PackageRefused, match="bars@1 is not the package that was activated"):
        await models.rollback(None)
    assert (registry.active("bars"), models.current and models.current.ref.version) == ("2", "2")


async def test_model_that_a_device_kept_from_being_loaded_is_tried_again(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory, a lost device, a store that cannot be read: the line is answered, and somebody else tries on."""
    models, troubles = ActiveModel(ModelSettings(name="bars", store=registry.store), device=CPU), list[str]()
    models.on_trouble = troubles.append
    with monkeypatch.context() as patched:
        patched.setattr(ModelPackage, "build_pipeline", _no_memory)
        await models.load()
        assert (models.current, models.fault) == (None, "OutOfMemoryError: no memory")
        assert troubles == [models.fault]
        with pytest.raises(PackageError, match="not loaded"):
            models.proofs()
        with pytest.raises(torch.OutOfMemoryError):
            await models.reload()
    loaded = list[bool]()
    models.on_loaded = lambda: loaded.append(True)
    await models.reload()
    assert models.current is not None
    assert (models.fault, loaded) == (None, [True])
    assert len(models.proofs()) == len(read_package(registry.store / "bars" / "2").manifest.golden)


async def test_model_is_proved_frame_by_frame(registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together golden frames may take longer than a thread that hangs; one call judges one of them."""
    models, judged = await _loaded(registry, "2"), list[int]()
    inspect = Pipeline.inspect

    def count(self: Pipeline, frames: Sequence[Frame]) -> list[Inspection]:
        judged.append(len(frames))
        return inspect(self, frames)

    monkeypatch.setattr(Pipeline, "inspect", count)
    golden = read_package(registry.store / "bars" / "2").manifest.golden
    assert len(golden) > 1
    for done, proof in enumerate(models.proofs(), start=1):
        proof()
        assert judged == [1] * done
    assert len(judged) == len(golden)
    await models.unload()
    assert models.proofs() == []


async def test_model_that_the_store_gives_later_is_taken(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that is mounted after the service started, a first training: told once, and loaded when it is there."""
    monkeypatch.setattr(active, "_RETRY_S", (0.001, 0.001))
    away, looked = registry.store.rename(registry.store.with_name("away")), list[str]()
    resolve = ModelRegistry.resolve

    def look(self: ModelRegistry, reference: str) -> Path:
        looked.append(reference)
        return resolve(self, reference)

    monkeypatch.setattr(ModelRegistry, "resolve", look)
    with structlog.testing.capture_logs() as logged:
        models = await _loaded(registry, "active")
        looking = asyncio.create_task(models.keep_looking())
        await eventually(lambda: len(looked) > 3)
    assert models.fault == f"no model 'bars' in {registry.store}, and no package of that path"
    assert [entry["event"] for entry in logged] == ["model_unavailable"]
    away.rename(registry.store)
    await eventually(lambda: models.current is not None)
    looking.cancel()


async def test_model_that_was_unloaded_is_not_looked_for(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody wanted no model."""
    monkeypatch.setattr(active, "_RETRY_S", (0.0, 0.0))
    away = registry.store.rename(registry.store.with_name("away"))
    models = await _loaded(registry, "active")
    looked, unloaded = list[str](), list[bool]()

    async def look(name: str) -> None:
        looked.append(name)

    monkeypatch.setattr(models, "_load", look)
    looking = asyncio.create_task(models.keep_looking())
    await eventually(lambda: "bars" in looked)
    models.on_unloaded = lambda: unloaded.append(True)
    await models.unload()
    assert unloaded == [True]
    looked.clear()
    away.rename(registry.store)
    await loop_turns(100)  # each is a look
    assert not looking.done()
    looking.cancel()
    assert (looked, models.current, models.fault) == ([], None, "the model was unloaded")


async def test_model_that_was_unloaded_does_not_come_back_by_itself(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a device had kept it from being loaded, and whoever tries on does so once more."""
    models = ActiveModel(ModelSettings(name="bars", store=registry.store), device=CPU)
    with monkeypatch.context() as patched:
        patched.setattr(ModelPackage, "build_pipeline", _no_memory)
        await models.load()
    await models.unload()
    await models.reload()
    assert (models.current, models.fault, models.proofs()) == (None, "the model was unloaded", [])


def _no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("no memory")

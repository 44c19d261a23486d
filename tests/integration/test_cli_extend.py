"""`cangate models extend`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from adapters.frames import decode_image
from schemas.recipe import Recipe
from service.errors import CangateError
from service.model.dataset import Decode, list_frames, read_frame
from service.model.extension import Extension, extend
from service.model.package import InspectionPipeline, read_package
from service.model.registry import ModelRegistry
from service.pipeline.patch_scores import RINGS
from service.pipeline.types import BgrImage, Frame
from tests.support.cli import CommandLine
from tests.support.parts import draw_part, train_parts, write_parts


def another_finish(seed: int) -> BgrImage:
    """A good part of another supplier: its metal is brushed along, in coarse stripes."""
    part = draw_part(seed).astype(np.int16)
    part[..., :] += (14 * np.sign(np.sin(np.arange(part.shape[1]) * 0.9)))[None, :, None].astype(np.int16)
    return np.clip(part, 0, 255).astype(np.uint8)


def write_new(directory: Path, seeds: range) -> Path:
    """Write good parts with the other finish."""
    directory.mkdir()
    for seed in seeds:
        cv2.imwrite(str(directory / f"new{seed}.png"), another_finish(seed))
    return directory


@pytest.fixture
def trained_on(tmp_path: Path) -> Path:
    """The frames of version 1."""
    return write_parts(tmp_path / "ok", 10)


@pytest.fixture
def registry(tmp_path: Path, trained_on: Path) -> ModelRegistry:
    """A store with an active model that does not know the other finish."""
    registry = ModelRegistry(tmp_path / "models")
    train_parts(trained_on).publish(registry)
    registry.activate("bars", "1")
    return registry


def test_extend_shows_the_effect_and_writes_nothing_unasked(
    cangate: CommandLine, registry: ModelRegistry, tmp_path: Path
) -> None:
    """Before anything is changed one sees how the new frames fare now and then, and what becomes of tau."""
    shown = cangate(
        *("models", "extend", "bars", write_new(tmp_path / "new", range(100, 108)), "--store", registry.store),
        *("--damaged", write_parts(tmp_path / "damaged", 3, first_seed=50, damaged=True)),
    )
    assert "nothing was written: give --accept to write the new version" in shown.one_line_error()
    rows = {line.split("  ")[0].strip(): line.split()[-6:] for line in shown.stdout.splitlines()}
    assert rows["new OK frames rejected"] == ["8", "of", "8", "0", "of", "8"]
    assert rows["damaged frames rejected"] == ["3", "of", "3", "3", "of", "3"]
    assert rows["OK frames"][-2:] == ["10", "18"]
    assert registry.versions("bars") == ["1"]


def test_accepted_extension_is_the_next_version_with_its_history(
    cangate: CommandLine, registry: ModelRegistry, tmp_path: Path
) -> None:
    """It keeps the old vectors, knows all frames, passes new parts of both finishes, and its golden frames hold."""
    new = write_new(tmp_path / "new", range(100, 108))
    done = cangate("models", "extend", "bars", new, "--store", registry.store, "--accept", "--activate")
    assert (done.status, registry.active("bars")) == (0, "2"), done
    old, package = registry.read("bars", "1"), registry.read("bars", "2")
    np.testing.assert_array_equal(package.vectors[: len(old.vectors)], old.vectors)
    assert len(package.vectors) > len(old.vectors)
    assert package.manifest.parent == old.id
    assert len(package.manifest.training.frames) == len(package.manifest.calibration.held_back) == 18
    assert package.manifest.training.bank_size == len(package.vectors)
    assert len(package.manifest.golden) == 4
    pipeline = InspectionPipeline.from_package(package.path)
    parts = [draw_part(200), another_finish(201), draw_part(202, damaged=True)]
    assert [each.damaged for each in pipeline.inspect([Frame(part) for part in parts])] == [False, False, True]


def test_accepted_extension_is_active_before_it_is_told(
    cangate: CommandLine, registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where standard output takes nothing, it is there all the same."""

    def full(_: object) -> None:
        raise CangateError("cannot write to standard output")

    monkeypatch.setattr("service.cli.extend._report", full)
    new = write_new(tmp_path / "new", range(100, 102))
    done = cangate("models", "extend", "bars", new, "--store", registry.store, "--accept", "--activate")
    assert (done.status, registry.active("bars")) == (1, "2")


def test_extend_leaves_out_what_the_model_knows(
    cangate: CommandLine, registry: ModelRegistry, trained_on: Path, tmp_path: Path
) -> None:
    """Frames of the training and copies among the new ones are named and not counted twice."""
    new = write_new(tmp_path / "new", range(100, 102))
    (new / "notes.txt").touch()
    (new / "copy.png").write_bytes((new / "new100.png").read_bytes())
    (new / "old.png").write_bytes((trained_on / "part3.png").read_bytes())
    done = cangate("models", "extend", "bars", new, "--store", registry.store, "--accept")
    assert "left out: old.png is part3.png of bars@1" in done.stdout
    assert "passed over, no pictures by their name: notes.txt" in done.stdout
    assert "left out: new100.png is copy.png" in done.stdout
    assert len(read_package(registry.resolve("bars@2")).manifest.training.frames) == 12
    again = cangate("models", "extend", "bars@2", new, "--store", registry.store).one_line_error()
    assert "none of the 4 frames is new to bars@2" in again


def test_extend_counts_a_frame_once_that_tau_was_taken_from(
    cangate: CommandLine, registry: ModelRegistry, tmp_path: Path
) -> None:
    """Calibrated with the same folder and one frame more: each frame has one score, the new ones their new one."""
    new, store = write_new(tmp_path / "new", range(100, 104)), ("--store", registry.store)
    cv2.imwrite(str(new / "more.png"), another_finish(104))
    assert cangate("calibrate", "bars", "--ok", new, *store).status == 0
    (new / "more.png").unlink()
    assert cangate("models", "extend", "bars@2", new, *store, "--accept").status == 0
    before, after = (registry.read("bars", version).manifest.calibration.held_back for version in ("2", "3"))
    assert [frame.name for frame in after] == ["more.png", *(f"new{seed}.png" for seed in range(100, 104))]
    assert after[0] == before[0]
    assert {frame.fold for frame in after[1:]}.isdisjoint({frame.fold for frame in before})


def test_extend_takes_a_single_frame(cangate: CommandLine, registry: ModelRegistry, tmp_path: Path) -> None:
    """Held back, it has nothing but the bank as it was."""
    new = write_new(tmp_path / "new", range(100, 101))
    assert cangate("models", "extend", "bars", new, "--store", registry.store, "--accept").status == 0
    held_back = registry.read("bars", "2").manifest.calibration.held_back
    assert len(held_back) == 11
    assert held_back[-1].fold not in {frame.fold for frame in held_back[:-1]}


def test_extend_is_deterministic(cangate: CommandLine, registry: ModelRegistry, tmp_path: Path) -> None:
    """The same frames make the same bank and the same threshold."""
    new = write_new(tmp_path / "new", range(100, 104))
    for _ in range(2):
        assert cangate("models", "extend", "bars@1", new, "--store", registry.store, "--accept").status == 0
    second, third = registry.read("bars", "2"), registry.read("bars", "3")
    np.testing.assert_array_equal(second.vectors, third.vectors)
    assert second.manifest.calibration == third.manifest.calibration


def test_extend_refuses_in_one_line(cangate: CommandLine, registry: ModelRegistry, tmp_path: Path) -> None:
    """A frame that is no picture, a folder without any, a folder that is not there, a model that is not there."""
    new, store = write_new(tmp_path / "new", range(100, 102)), ("--store", registry.store)
    (new / "torn.png").write_bytes((new / "new100.png").read_bytes()[:300])
    (tmp_path / "empty").mkdir()
    assert "torn.png (frame_corrupt" in cangate("models", "extend", "bars", new, *store).one_line_error()
    assert "no pictures in" in cangate("models", "extend", "bars", tmp_path / "empty", *store).one_line_error()
    assert "cannot list" in cangate("models", "extend", "bars", tmp_path / "nowhere", *store).one_line_error()
    assert "no model 'rods'" in cangate("models", "extend", "rods", new, *store).one_line_error()
    assert registry.versions("bars") == ["1"]


def test_scores_of_new_frames_are_those_of_the_line(registry: ModelRegistry, tmp_path: Path) -> None:
    """Rim and neighbourhood of the model count for the frames that are added, before and after."""
    package = read_package(registry.resolve("bars"))
    pipeline = package.build_pipeline(torch.device("cpu"))
    files = list_frames(write_new(tmp_path / "new", range(100, 104))).frames

    def extended(**changes: Any) -> Extension:
        return extend(
            package,
            replace(pipeline, **changes),
            files,
            (),
            decode=Decode(partial(decode_image, max_pixels=1_000_000)),
            workers=1,
            progress=lambda _stage, _done, _total: None,
        )

    def after(extension: Extension) -> list[float]:
        return [float(score) for score in extension.added.after]

    plain = replace_score(pipeline.recipe, neighbourhood=1)
    once, twice = extended(rim=(1.0,) * RINGS), extended(rim=(2.0,) * RINGS)
    assert [2 * score for score in after(twice)] == pytest.approx(after(once), rel=1e-5)
    assert all(mean < alone for mean, alone in zip(after(once), after(extended(recipe=plain, rim=())), strict=True))
    seen = [
        pipeline.inspect([read_frame(file, Decode(partial(decode_image, max_pixels=1_000_000))).frame])[0]
        for file in files
    ]
    assert list(extended().added.before) == pytest.approx([inspection.score for inspection in seen], abs=1e-5)


def replace_score(recipe: Recipe, **changes: Any) -> Recipe:
    """Return a recipe with other patch scores."""
    return recipe.model_copy(update={"score": recipe.score.model_copy(update=changes)})

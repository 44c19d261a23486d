"""Training from OK frames."""

from __future__ import annotations

import hashlib
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from adapters.frames import decode_image
from schemas.recipe import RoiMethod, RoiRecipe
from service.errors import TrainingError
from service.model.calibration import LimitMethod
from service.model.dataset import Decode, list_frames
from service.model.training import TrainedModel, TrainingOptions, frozen_recipe, train
from service.pipeline.embed import build_embedder
from service.pipeline.memory_bank import MemoryBank
from service.pipeline.pipeline import Pipeline
from service.pipeline.roi import build_roi_finder
from service.pipeline.types import BgrImage, Frame, Inspection
from tests.support.parts import QUICK, draw_part, train_parts, write_parts

CPU = torch.device("cpu")
decode = Decode(partial(decode_image, max_pixels=1_000_000))


def judged(trained: TrainedModel, picture: BgrImage) -> Inspection:
    """Judge a picture with a model as it ships."""
    pipeline = Pipeline(
        trained.manifest.recipe,
        build_roi_finder(QUICK.roi),
        build_embedder(QUICK.embed, CPU),
        MemoryBank(trained.vectors),
        tau=trained.manifest.tau,
        patch_tau=trained.manifest.patch_tau,
        rim=trained.manifest.rim,
    )
    return pipeline.inspect([Frame(picture)])[0]


def test_training_separates_damaged_parts_from_ok_ones(tmp_path: Path) -> None:
    """Parts never seen: the intact ones stay below tau, the scratched ones reach it, with a box on the scratch."""
    trained = train_parts(write_parts(tmp_path, 12))
    intact = [judged(trained, draw_part(seed)) for seed in range(100, 104)]
    damaged = [judged(trained, draw_part(seed, damaged=True)) for seed in range(100, 104)]
    assert [inspection.damaged for inspection in intact] == [False] * 4
    assert [inspection.damaged for inspection in damaged] == [True] * 4
    assert all(inspection.boxes for inspection in damaged)


def test_training_is_repeatable_and_says_what_it_did(tmp_path: Path) -> None:
    """The same frames give the same bank, threshold and record; only the time of creation differs."""
    frames = write_parts(tmp_path, 6)
    first, second = train_parts(frames), train_parts(frames)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    exclude = {"created_at"}
    assert first.manifest.model_dump(exclude=exclude) == second.manifest.model_dump(exclude=exclude)
    manifest = first.manifest
    assert [frame.name for frame in manifest.training.frames] == [f"part{index}.png" for index in range(1, 7)]
    assert manifest.tau == manifest.calibration.limits[manifest.recipe.score.statistic]
    assert manifest.training.bank_size == len(first.vectors)
    assert manifest.metrics.held_back_rejected == 0
    assert set(first.golden) == {golden.file for golden in manifest.golden}


def test_training_judges_frames_by_banks_that_never_saw_them(tmp_path: Path) -> None:
    """With half of all patches in the bank, a frame scores far less with its own among them than held back."""
    dense = QUICK.model_copy(update={"memory": QUICK.memory.model_copy(update={"coreset_frac": 0.5})})
    manifest = train_parts(write_parts(tmp_path, 5), dense).manifest
    held_back = {frame.name: frame.scores[manifest.recipe.score.statistic] for frame in manifest.calibration.held_back}
    assert all(golden.score < 0.8 * held_back[golden.name] for golden in manifest.golden)
    assert manifest.tau > max(held_back.values())


def test_training_leaves_out_duplicates_by_their_pixels(tmp_path: Path) -> None:
    """A copy, and a copy in another format, are reported and judged once."""
    write_parts(tmp_path, 4)
    shutil.copy(tmp_path / "part2.png", tmp_path / "part7.png")
    (tmp_path / "part8.bmp").write_bytes(cv2.imencode(".bmp", draw_part(0))[1].tobytes())
    training = train_parts(tmp_path).manifest.training
    assert len(training.frames) == 4
    assert [(twin.name, twin.same_as) for twin in training.duplicates] == [
        ("part7.png", "part2.png"),
        ("part8.bmp", "part1.png"),
    ]


@pytest.mark.parametrize("count", [0, 1])
def test_training_refuses_too_few_frames(tmp_path: Path, count: int) -> None:
    """Without frames, and with one, there is nothing to hold back."""
    with pytest.raises(TrainingError, match=f"got {count}"):
        train_parts(write_parts(tmp_path, count))


def test_training_refuses_a_set_of_twins(tmp_path: Path) -> None:
    """Five copies of one frame are one frame."""
    write_parts(tmp_path, 1)
    for index in range(2, 6):
        shutil.copy(tmp_path / "part1.png", tmp_path / f"part{index}.png")
    with pytest.raises(TrainingError, match="got 1 different"):
        train_parts(tmp_path)


def test_training_names_every_frame_that_cannot_be_used(tmp_path: Path) -> None:
    """Truncated, empty, no picture, and no canister: all four are named, with the contract's reason."""
    write_parts(tmp_path, 3)
    whole = (tmp_path / "part1.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "blank.png").write_bytes(cv2.imencode(".png", np.full((180, 240, 3), 128, np.uint8))[1].tobytes())
    grabcut = QUICK.model_copy(update={"roi": RoiRecipe()})
    with pytest.raises(TrainingError) as refused:
        train_parts(tmp_path, grabcut)
    text = str(refused.value)
    assert text.startswith("4 of 7 frames cannot be used")
    for name, reason in (
        ("cut.png", "frame_corrupt"),
        ("empty.png", "frame_corrupt"),
        ("text.jpg", "frame_corrupt"),
        ("blank.png", "roi_not_found"),
    ):
        assert f"{name} ({reason}: " in text


def test_training_names_frames_by_what_is_wrong_with_them(tmp_path: Path) -> None:
    """The reason is said once for all that have it; where most show no part, the way to take them whole is told."""
    write_parts(tmp_path, 1)
    blank = cv2.imencode(".png", np.full((180, 240, 3), 128, np.uint8))[1].tobytes()
    for name in ("blank1.png", "blank2.png"):
        (tmp_path / name).write_bytes(blank)
    (tmp_path / "empty.png").touch()
    with pytest.raises(TrainingError) as refused:
        train_parts(tmp_path, QUICK.model_copy(update={"roi": RoiRecipe()}))
    assert str(refused.value) == (
        "3 of 4 frames cannot be used: "
        "blank1.png, blank2.png (roi_not_found: nothing in the frame looks like a part); "
        "empty.png (frame_corrupt: the image has no bytes); where parts fill the frame, train with --roi none"
    )


def test_training_bounds_the_patches_in_memory(tmp_path: Path) -> None:
    """The bank is chosen from a sample where the patches outnumber the reservoir."""
    small = QUICK.model_copy(update={"memory": QUICK.memory.model_copy(update={"reservoir": 150, "coreset_frac": 0.5})})
    training = train_parts(write_parts(tmp_path, 4), small).manifest.training
    assert training.patches > training.patches_held == 150
    assert training.bank_size == 75


def test_training_of_a_mixed_set_does_not_believe_a_damaged_frame(tmp_path: Path) -> None:
    """A damaged part among the OK ones neither raises tau nor leaves its damage in the bank."""
    clean = train_parts(write_parts(tmp_path / "ok", 10))
    (tmp_path / "ok" / "part11.png").write_bytes(cv2.imencode(".png", draw_part(50, damaged=True))[1].tobytes())
    misled = train_parts(tmp_path / "ok")
    mixed = train_parts(tmp_path / "ok", options=TrainingOptions(mixed=True))
    assert (mixed.manifest.training.mixed, mixed.manifest.calibration.method) == (True, LimitMethod.CENSORED)
    assert mixed.manifest.tau < 1.25 * clean.manifest.tau < misled.manifest.tau
    assert not judged(misled, draw_part(50, damaged=True)).damaged
    assert judged(mixed, draw_part(50, damaged=True)).damaged
    assert not judged(mixed, draw_part(100)).damaged


def test_training_can_be_cancelled_between_steps(tmp_path: Path) -> None:
    """What the progress callback raises ends the training there, whatever the stage."""
    frames = list_frames(write_parts(tmp_path, 4)).frames
    stages: list[str] = []

    def cancel_in(wanted: str) -> None:
        def progress(stage: str, _done: int, _total: int) -> None:
            stages.append(stage)
            if stage == wanted:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train("bars", frames, QUICK, TrainingOptions(), decode=decode, device=CPU, progress=progress)

    for stage in ("frames", "held-back scores", "golden frames"):
        cancel_in(stage)
        assert stages[-1] == stage


def test_a_checkpoint_is_kept_by_its_absolute_path_and_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of SAM; a recipe that names no file stays as it is."""
    monkeypatch.chdir(tmp_path)
    Path("sam.pth").write_bytes(b"weights")
    kept = frozen_recipe(QUICK.model_copy(update={"roi": RoiRecipe(method=RoiMethod.SAM, sam_checkpoint="sam.pth")}))
    assert kept.roi.sam_checkpoint == str(tmp_path / "sam.pth")
    assert kept.roi.sam_sha256 == hashlib.sha256(b"weights").hexdigest()
    assert frozen_recipe(QUICK) == QUICK

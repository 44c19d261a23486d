"""The pipeline without the service around it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from service.errors import PackageNotFound, PackageRefused, UsageError
from service.model.package import InspectionPipeline
from service.model.registry import ModelRegistry
from service.pipeline.embed import build_embedder
from service.pipeline.memory_bank import MemoryBank
from service.pipeline.pipeline import Pipeline
from service.pipeline.roi import build_roi_finder
from service.pipeline.types import BgrImage, Frame
from tests.support.parts import draw_part, train_parts, write_parts

PAGE = Path(__file__).parents[2] / "docs" / "library.md"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small package."""
    trained = train_parts(write_parts(tmp_path_factory.mktemp("ok"), 10))
    return trained.publish(ModelRegistry(tmp_path_factory.mktemp("models")))


def test_example_of_the_page_runs_as_printed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a reader copies from docs/library.md works on their own package and pictures."""
    (tmp_path / "models" / "canister").mkdir(parents=True)
    (tmp_path / "models" / "canister" / "1").symlink_to(package)
    cv2.imwrite(str(tmp_path / "good.png"), draw_part(500))
    cv2.imwrite(str(tmp_path / "bad.png"), draw_part(501, damaged=True))
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("good.png: OK, s = 0.")
    assert lines[1].startswith("bad.png: DAMAGED, s = 0.")
    assert lines[2].startswith("  damage at (")


def test_batch_gives_what_single_frames_give(package: Path) -> None:
    """The order is kept, and no frame sees another."""
    pipeline = InspectionPipeline.from_package(package)
    frames = [Frame(draw_part(seed, damaged=seed % 2 == 1)) for seed in range(600, 605)]
    alone = [pipeline.inspect([frame])[0].score for frame in frames]
    np.testing.assert_allclose([each.score for each in pipeline.inspect(frames)], alone, atol=1e-5)
    assert pipeline.inspect([]) == []


def test_scores_in_a_fresh_process_equal_those_of_the_training(tmp_path: Path) -> None:
    """What was trained here scores the same, to 1e-5, where nothing but the package and the frames are."""
    trained = train_parts(write_parts(tmp_path / "ok", 6))
    package = trained.publish(ModelRegistry(tmp_path / "models"))
    frames = write_parts(tmp_path / "new", 3, first_seed=700)
    frames = write_parts(frames / "damaged", 2, first_seed=800, damaged=True).parent
    paths = sorted(frames.rglob("*.png"))
    recipe, manifest = trained.manifest.recipe, trained.manifest
    cpu = torch.device("cpu")
    here = Pipeline(
        recipe,
        build_roi_finder(recipe.roi, cpu),
        build_embedder(recipe.embed, cpu),
        MemoryBank(trained.vectors),
        tau=manifest.tau,
        patch_tau=manifest.patch_tau,
        rim=manifest.rim,
    )
    expected = [each.score for each in here.inspect([Frame(read_picture(path)) for path in paths])]
    script = (
        "import sys, cv2\n"
        "from service.model.package import InspectionPipeline\n"
        "from service.pipeline.types import Frame\n"
        "pipeline = InspectionPipeline.from_package(sys.argv[1])\n"
        "for path in sys.argv[2:]:\n"
        "    print(repr(pipeline.inspect([Frame(cv2.imread(path))])[0].score))\n"
    )
    command = [sys.executable, "-c", script, str(package), *map(str, paths)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    np.testing.assert_allclose([float(line) for line in printed.splitlines()], expected, atol=1e-5)
    assert len(expected) == 5


def read_picture(path: Path) -> BgrImage:
    """Return a picture from disk."""
    return np.asarray(cv2.imread(str(path)), np.uint8)


def test_pipeline_names_its_package(package: Path) -> None:
    """A caller can say which model judged."""
    ref = InspectionPipeline.from_package(str(package)).ref
    assert (ref.name, ref.version, len(ref.sha256)) == ("bars", "1", 64)


def test_bank_with_one_value_flipped_is_refused(package: Path, tmp_path: Path) -> None:
    """One number of a million that is not what was packed."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in package.rglob("*"):
        if file.is_file():
            (copy / file.relative_to(package)).parent.mkdir(exist_ok=True)
            (copy / file.relative_to(package)).write_bytes(file.read_bytes())
    vectors = load_file(copy / "memory.safetensors")["vectors"].copy()
    vectors[3, 5] = -vectors[3, 5]
    save_file({"vectors": vectors}, copy / "memory.safetensors")
    with pytest.raises(PackageRefused, match=r"memory\.safetensors is not what was packed"):
        InspectionPipeline.from_package(copy)


def test_folder_without_a_package_is_named(tmp_path: Path) -> None:
    """A wrong path is the likeliest mistake."""
    with pytest.raises(PackageNotFound, match=rf"{tmp_path}$"):
        InspectionPipeline.from_package(tmp_path)
    with pytest.raises(PackageNotFound, match=r"nowhere$"):
        InspectionPipeline.from_package(tmp_path / "nowhere")


def test_folder_of_versions_leads_to_its_newest(package: Path, tmp_path: Path) -> None:
    """The name of a model is no package, its versions are."""
    for version in ("2", "10", ".draft-x"):
        (tmp_path / version).symlink_to(package)
    (tmp_path / "active.json").touch()
    with pytest.raises(PackageNotFound, match=rf"no model package in {tmp_path}; .*: {tmp_path}/10$"):
        InspectionPipeline.from_package(tmp_path)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "'gpu' is no device to compute on: give 'cpu', 'cuda' or 'cuda:N'"),
        ("", "'' is no device to compute on"),
        (None, "None is no device to compute on"),
        ("meta", "'meta' is no device to compute on"),
        ("cuda:99", "cuda:99 is not there; GPUs that torch can use: "),
    ],
)
def test_device_that_is_none_is_told_in_one_line(package: Path, device: Any, said: str) -> None:
    """What may be given, or what is there."""
    with pytest.raises(UsageError, match=f"^{re.escape(said)}.*$"):
        InspectionPipeline.from_package(package, device=device)


def test_gpu_without_a_driver_is_told_in_one_line(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by what torch says of it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", torch.device("cuda:0")):
        with pytest.raises(UsageError, match=rf"^{device} is not there; GPUs that torch can use: 0$"):
            InspectionPipeline.from_package(package, device=device)


def test_what_is_no_frame_is_told_in_one_line(package: Path, tmp_path: Path) -> None:
    """A wrong file name, an array, a frame that is no list, a list that is no frame."""
    pipeline: Any = InspectionPipeline.from_package(package)
    nothing, array = cv2.imread(str(tmp_path / "nowhere.png")), draw_part(500)
    wrong: Any
    for wrong, said in ((nothing, "not None: cv2.imread"), ([array], "not list"), ("good.png", "not str")):
        with pytest.raises(ValueError, match=rf"^a frame is an array \(H, W, 3\) uint8, {said}"):
            Frame(wrong)
    for wrong in ([array], array):
        with pytest.raises(TypeError, match=r"^a Frame is wanted, not ndarray: Frame\(bgr\) of an array"):
            pipeline.inspect(wrong)
    with pytest.raises(TypeError, match=r"^inspect takes a list of frames: of one, \[frame\]$"):
        pipeline.inspect(Frame(array))
    with pytest.raises(TypeError, match=r"^a Frame is wanted, not list"):
        pipeline.prepare([Frame(array)])

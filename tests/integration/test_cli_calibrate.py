"""`cangate calibrate` and `cangate models import-pickle`: a threshold, and the bank of the study, as new versions."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from schemas.recipe import RoiRecipe, ScoreStatistic
from service.errors import CangateError
from service.model.calibration import LimitMethod
from service.model.package import ModelPackage, read_package
from service.model.registry import ModelRegistry
from service.model.sweep import Measure, Target
from service.model.training import TrainedModel
from service.pipeline.patch_scores import RINGS
from service.pipeline.types import Frame
from tests.support.cli import CommandLine
from tests.support.parts import HEIGHT, QUICK, WIDTH, train_parts, write_config, write_parts

TRAINED, OTHER, BAD = 6, 8, 4


@pytest.fixture
def cangate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line, on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "120")
    return CommandLine(monkeypatch, capsys)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ok (of the training), other (OK as well) and bad (damaged)."""
    folder = tmp_path_factory.mktemp("frames")
    write_parts(folder / "ok", TRAINED)
    write_parts(folder / "other", OTHER, first_seed=100)
    write_parts(folder / "bad", BAD, first_seed=200, damaged=True)
    return folder


@pytest.fixture(scope="module")
def trained(frames: Path) -> TrainedModel:
    """A small model."""
    return train_parts(frames / "ok")


@pytest.fixture
def registry(trained: TrainedModel, tmp_path: Path) -> ModelRegistry:
    """A store with one version, which is active."""
    registry = ModelRegistry(tmp_path / "models")
    trained.publish(registry)
    registry.activate("bars", "1")
    return registry


def version(registry: ModelRegistry, number: int) -> ModelPackage:
    return read_package(registry.store / "bars" / str(number))


def test_calibrate_from_held_back_frames(cangate: CommandLine, registry: ModelRegistry) -> None:
    """Their scores lie in the package: another rate takes no frames, and makes a version with the same bank."""
    outcome = cangate("calibrate", "bars", "--false-reject", "0.3", "--store", registry.store)
    assert (outcome.status, outcome.stderr) == (0, "")
    before, after = version(registry, 1), version(registry, 2)
    assert after.manifest.calibration.false_reject == 0.3
    assert after.manifest.calibration.method is LimitMethod.CONFORMAL
    assert after.manifest.calibration.held_back == before.manifest.calibration.held_back
    assert after.manifest.tau == after.manifest.calibration.limits[ScoreStatistic.MAX] < before.manifest.tau
    assert after.manifest.metrics.held_back_rejected == 1
    assert (after.manifest.patch_tau, after.manifest.golden) == (before.manifest.patch_tau, before.manifest.golden)
    assert after.manifest.parent == before.id
    np.testing.assert_array_equal(after.vectors, before.vectors)
    assert "Beta of the conformal coverage" in outcome.stdout
    assert f"cangate models activate bars 2 --store {registry.store}" in outcome.stdout
    assert registry.active("bars") == "1"
    assert all(statistic in outcome.stdout for statistic in ScoreStatistic)


def test_calibrate_prints_the_median_that_the_manifest_holds(cangate: CommandLine, registry: ModelRegistry) -> None:
    """Of an even number of frames it lies between two of them."""
    outcome = cangate("calibrate", "bars", "--store", registry.store)
    known = version(registry, 2).manifest.metrics.score_median
    (row,) = (line for line in outcome.stdout.splitlines() if line.startswith("> max "))
    assert row.split()[2] == f"{known:.4f}"


def test_calibrated_scores_are_those_of_the_line(cangate: CommandLine, registry: ModelRegistry, frames: Path) -> None:
    """The threshold lies on the scale of the scores that it is compared with: rim and neighbourhood are in both."""
    assert cangate("calibrate", "bars", "--ok", frames / "other", "--store", registry.store).status == 0
    after = version(registry, 2)
    assert len(after.manifest.rim) == RINGS
    pipeline = after.build_pipeline(torch.device("cpu"))
    for held_back in after.manifest.calibration.held_back:
        picture = cv2.imread(str(frames / "other" / held_back.name), cv2.IMREAD_COLOR)
        assert picture is not None
        (seen,) = pipeline.inspect([Frame(np.asarray(picture, np.uint8))])
        assert held_back.scores[ScoreStatistic.MAX] == pytest.approx(seen.score, abs=1e-5)


def test_calibrated_version_is_active_before_it_is_told(
    cangate: CommandLine, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where standard output takes nothing, it is there all the same."""

    def full(*_: object) -> None:
        raise CangateError("cannot write to standard output")

    monkeypatch.setattr("service.cli.calibrate._report", full)
    assert cangate("calibrate", "bars", "--activate", "--store", registry.store).status == 1
    assert registry.active("bars") == "2"


def test_calibrate_says_what_few_frames_cannot_claim(cangate: CommandLine, registry: ModelRegistry) -> None:
    """Six frames say little about one percent: the limit is extrapolated, the interval is wide."""
    outcome = cangate("calibrate", "bars", "--store", registry.store)
    assert "tau is extrapolated: a false-reject rate of 0.01 takes 99 frames, there are 6" in outcome.stdout
    assert "too few frames to claim a false-reject rate of 0.01: that takes 368" in outcome.stdout
    assert "between 0.00% and 45.93% with 95% confidence (Clopper-Pearson)" in outcome.stdout


def test_calibrate_with_another_statistic_keeps_the_golden_frames(
    cangate: CommandLine, registry: ModelRegistry, frames: Path
) -> None:
    """Recipe, tau and golden scores change together, so that the version can be activated; boxes stay as they are."""
    outcome = cangate(
        "calibrate", "bars", "--ok", frames / "other", "--statistic", "p95", "--activate", "--store", registry.store
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    before, after = version(registry, 1).manifest, version(registry, 2).manifest
    assert after.recipe.score.statistic is ScoreStatistic.P95
    assert after.tau == after.calibration.limits[ScoreStatistic.P95]
    assert after.patch_tau == before.patch_tau
    assert (after.calibration.folds, len(after.calibration.held_back)) == (0, OTHER)
    assert all(new.score < old.score for new, old in zip(after.golden, before.golden, strict=True))
    assert registry.active("bars") == "2"
    assert "8 OK frames, none of them in the bank" in outcome.stdout


@pytest.mark.parametrize("measure", Measure)
def test_calibrate_reaches_a_target_on_damaged_frames(
    cangate: CommandLine, registry: ModelRegistry, frames: Path, tmp_path: Path, measure: Measure
) -> None:
    """The sweep and what it reached are on record, and the curves are a picture."""
    outcome = cangate(
        *("calibrate", "bars@1", "--ok", frames / "other", "--damaged", frames / "bad"),
        *(f"--target-{measure}", "1", "-o", tmp_path / "report", "--store", registry.store),
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    manifest = version(registry, 2).manifest
    sweep = manifest.calibration.sweep
    assert sweep is not None
    assert sweep.target == Target(measure=measure, wanted=1)
    assert (sweep.damaged_frames, sweep.recall, sweep.precision) == (BAD, 1.0, 1.0)
    assert manifest.metrics.held_back_rejected == 0
    assert cv2.imread(str(tmp_path / "report" / "calibration.png")) is not None
    cangate("inspect", "bars@2", *(frames / "bad").iterdir(), "--store", registry.store, "--csv", tmp_path / "bad.csv")
    assert (tmp_path / "bad.csv").read_text().count(",DAMAGED,") == BAD


def test_calibrate_dry_run_writes_no_version(cangate: CommandLine, registry: ModelRegistry, frames: Path) -> None:
    """It shows the same; recall and precision come with damaged frames."""
    outcome = cangate("calibrate", "bars", "--damaged", frames / "bad", "--dry-run", "--store", registry.store)
    assert outcome.status == 0
    assert "recall" in outcome.stdout
    assert "no version was written" in outcome.stdout
    assert registry.versions("bars") == ["1"]


def test_calibrate_takes_a_package_by_its_path(cangate: CommandLine, registry: ModelRegistry, tmp_path: Path) -> None:
    """The version is written into the store, under the name that the package says."""
    elsewhere = shutil.copytree(registry.store / "bars" / "1", tmp_path / "elsewhere")
    outcome = cangate("calibrate", elsewhere, "--store", tmp_path / "fresh")
    assert outcome.status == 0
    assert ModelRegistry(tmp_path / "fresh").versions("bars") == ["1"]
    assert "no version is active; to change that: cangate models activate bars 1" in outcome.stdout


def test_calibrate_refuses_training_frames_by_name(
    cangate: CommandLine, registry: ModelRegistry, frames: Path, tmp_path: Path
) -> None:
    """A frame in the bank says nothing about new ones, whatever its file is called now."""
    folder = shutil.copytree(frames / "other", tmp_path / "mixed")
    shutil.copy(frames / "ok" / "part3.png", folder / "new.png")
    line = cangate("calibrate", "bars", "--ok", folder, "--store", registry.store).one_line_error()
    assert f"1 of {OTHER + 1} frames cannot calibrate bars@1: new.png is part3.png of the training set" in line
    assert registry.versions("bars") == ["1"]


def test_calibrate_refuses_frames_that_are_both_ok_and_damaged(
    cangate: CommandLine, registry: ModelRegistry, frames: Path
) -> None:
    """One of the folders is wrong."""
    line = cangate(
        "calibrate", "bars", "--ok", frames / "other", "--damaged", frames / "other", "--store", registry.store
    ).one_line_error()
    assert f"{OTHER} of {OTHER} frames" in line
    assert "of the other folder" in line
    assert f"and {OTHER - 5} more" in line


def test_calibrate_counts_a_copied_frame_once(
    cangate: CommandLine, registry: ModelRegistry, frames: Path, tmp_path: Path
) -> None:
    """A copy makes no threshold surer."""
    folder = shutil.copytree(frames / "other", tmp_path / "copies")
    shutil.copy(folder / "part1.png", folder / "part9.png")
    (folder / "notes.txt").touch()
    outcome = cangate("calibrate", "bars", "--ok", folder, "--dry-run", "--store", registry.store)
    assert "left out: part9.png is part1.png once more" in outcome.stdout
    assert "passed over, no pictures by their name: notes.txt" in outcome.stdout
    assert f"{OTHER} OK frames" in outcome.stdout


def test_calibrate_refuses_unreadable_frames_by_name(
    cangate: CommandLine, registry: ModelRegistry, frames: Path, tmp_path: Path
) -> None:
    """As training does."""
    folder = shutil.copytree(frames / "other", tmp_path / "broken")
    (folder / "zero.png").touch()
    line = cangate("calibrate", "bars", "--ok", folder, "--store", registry.store).one_line_error()
    assert "zero.png (frame_corrupt" in line


def test_calibrate_counts_every_frame_without_a_part(cangate: CommandLine, frames: Path, tmp_path: Path) -> None:
    """Together with the others that it cannot use, by what is wrong with them, and with the way out."""
    registry = ModelRegistry(tmp_path / "models")
    train_parts(frames / "ok", QUICK.model_copy(update={"roi": RoiRecipe()})).publish(registry)
    folder = shutil.copytree(frames / "other", tmp_path / "mixed")
    for name in ("blank1.png", "blank2.png", "blank3.png"):
        cv2.imwrite(str(folder / name), np.full((HEIGHT, WIDTH, 3), 128, np.uint8))
    (folder / "cut.png").touch()
    shutil.copy(frames / "ok" / "part3.png", folder / "known.png")
    line = cangate("calibrate", "bars@1", "--ok", folder, "--store", registry.store).one_line_error()
    assert f"5 of {OTHER + 5} frames cannot calibrate bars@1: known.png is part3.png of the training set; " in line
    assert "blank1.png, blank2.png, blank3.png (roi_not_found: " in line
    assert "; cut.png (frame_corrupt: " in line
    assert line.endswith("train with --roi none")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bars", "--target-recall", "0.9"), "--target-recall needs --damaged"),
        (("bars", "--target-recall", "0.9", "--target-precision", "0.9"), "exclude each other"),
        (
            ("bars", "--target-recall", "0.9", "--false-reject", "0.01"),
            "--target-recall and --false-reject exclude each other",
        ),
        (
            ("bars", "--target-precision", "0.9", "--false-reject", "0.2"),
            "--target-precision and --false-reject exclude each other",
        ),
        (("bars", "--target-recall", "1.1"), "--target-recall"),
        (("bars", "--false-reject", "0"), "--false-reject"),
        (("bars", "--statistic", "p50"), "--statistic"),
        (("bars", "--ok", "{empty}"), "no pictures in {empty}"),
        (("bars", "--damaged", "{nowhere}"), "{nowhere}"),
        (("bars", "-o", "{file}"), "{file}"),
        (("cans",), "cans"),
        ((), "MODEL"),
    ],
)
def test_calibrate_refuses_unusable_arguments_in_one_line(
    cangate: CommandLine, registry: ModelRegistry, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    """What is wrong is named, and nothing is written."""
    places = {"{empty}": str(tmp_path / "empty"), "{nowhere}": str(tmp_path / "gone"), "{file}": str(tmp_path / "f")}
    (tmp_path / "empty").mkdir()
    (tmp_path / "f").touch()
    for mark, place in places.items():
        words = words.replace(mark, place)
    given = [places.get(argument, argument) for argument in arguments]
    assert words in cangate("calibrate", *given, "--store", registry.store).one_line_error()
    assert registry.versions("bars") == ["1"]


def test_calibrate_refuses_a_target_that_no_threshold_reaches(
    cangate: CommandLine, trained: TrainedModel, frames: Path, tmp_path: Path
) -> None:
    """OK frames passed off as damaged are caught by no threshold that spares the others."""
    registry = ModelRegistry(tmp_path / "models")
    trained.publish(registry)
    line = cangate(
        *("calibrate", "bars@1", "--ok", frames / "bad", "--damaged", frames / "other"),
        *("--target-precision", "1", "--store", registry.store),
    ).one_line_error()
    assert "no threshold of max reaches the wanted precision" in line


def test_imported_bank_is_calibrated_into_a_whole_package(
    cangate: CommandLine, trained: TrainedModel, frames: Path, tmp_path: Path
) -> None:
    """The study's pickle becomes version 1; OK frames give version 2 its threshold, patch_tau and golden frames."""
    config, file = write_config(tmp_path), tmp_path / "patchcore_memory.pkl"
    file.write_bytes(pickle.dumps({"coreset": trained.vectors, "tau": 0.5, "feat_dim": trained.vectors.shape[1]}))
    outcome = cangate("models", "import-pickle", file, "--name", "study", "-c", config)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "active, though unproven" in outcome.stdout
    assert "another embedder" not in outcome.stdout
    assert outcome.stdout.endswith(f"next: cangate calibrate study@1 --ok FOLDER -c {config}\n")
    elsewhere = cangate("models", "import-pickle", file, "--name", "study", "-c", config, "--store", tmp_path / "other")
    assert elsewhere.stdout.endswith(f"next: cangate calibrate study@1 --ok FOLDER --store {tmp_path / 'other'}\n")
    registry = ModelRegistry(tmp_path / "models")
    first = read_package(registry.resolve("study"))
    assert (first.manifest.tau, first.manifest.recipe.score.statistic) == (0.5, ScoreStatistic.P95)
    np.testing.assert_array_equal(first.vectors, trained.vectors)
    # its tau was set on distances as they are
    score = first.manifest.recipe.score
    assert (first.manifest.rim, score.neighbourhood, score.rim_evenness) == ((), 1, 0)
    assert "give --ok" in cangate("calibrate", "study", "-c", config).one_line_error()
    assert cangate("calibrate", "study", "--ok", frames / "other", "--activate", "-c", config).status == 0
    second = read_package(registry.resolve("study"))
    assert second.manifest.patch_tau == second.manifest.calibration.limits[ScoreStatistic.MAX]
    assert len(second.manifest.golden) == 3
    assert second.check_golden(second.build_pipeline(torch.device("cpu"))) < 1e-5


def test_import_pickle_needs_a_tau_from_somewhere(cangate: CommandLine, trained: TrainedModel, tmp_path: Path) -> None:
    """`memory` alone takes --tau; a bank that no unit vectors fill is told."""
    config, file = write_config(tmp_path), tmp_path / "bank.pkl"
    file.write_bytes(pickle.dumps({"memory": 3 * trained.vectors}))
    command = ("models", "import-pickle", file, "--name", "study", "-c", config)
    assert "give --tau" in cangate(*command).one_line_error()
    assert "cannot be a threshold" in cangate(*command, "--tau", "-1").one_line_error()
    outcome = cangate(*command, "--tau", "0.4", "--statistic", "max")
    assert "longest vector measures 3" in outcome.stdout
    manifest = read_package(tmp_path / "models" / "study" / "1").manifest
    assert (manifest.tau, manifest.recipe.score.statistic) == (0.4, ScoreStatistic.MAX)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "vectors of 3 numbers, the embedder filters makes"),
        (("--embedder", "magic"), "--embedder magic"),
        (("--weights", "backbone.pt"), "weights"),
        (("--name", "a/b"), "model name"),
    ],
)
def test_import_pickle_refuses_what_does_not_fit(
    cangate: CommandLine, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    """An embedder of another length is named with both lengths; nothing is written."""
    config, file = write_config(tmp_path), tmp_path / "bank.pkl"
    file.write_bytes(pickle.dumps({"memory": np.ones((4, 3), np.float32), "tau": 0.5}))
    line = cangate("models", "import-pickle", file, "--name", "study", "-c", config, *arguments).one_line_error()
    assert words in line
    assert not (tmp_path / "models").exists()


def test_command_that_comes_next_names_the_store_as_it_was_named(
    cangate: CommandLine, registry: ModelRegistry, tmp_path: Path
) -> None:
    """By the option or the configuration, quoted for a shell: else it fails, or finds another store."""
    folder = tmp_path / "a plant"
    folder.mkdir()
    store = registry.store.rename(folder / "models")
    config = folder / "config.toml"
    config.write_text(f"model.store = '{store}'")
    for option, file in (("--store", store), ("-c", config)):
        said = cangate("calibrate", "bars", option, file).stdout
        assert f"to change that: cangate models activate bars {ModelRegistry(store).versions('bars')[-1]} " in said
        assert said.endswith(f" {option} '{file}'\n")


def test_calibrate_draws_nothing_into_frames_that_it_reads(
    cangate: CommandLine, registry: ModelRegistry, frames: Path
) -> None:
    """The picture would be a frame to the next command."""
    told = cangate("calibrate", "bars", "--ok", frames / "other", "-o", frames / "other", "--store", registry.store)
    assert "which is read; name another folder" in told.one_line_error()

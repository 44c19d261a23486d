"""`cangate evaluate --compare`."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from schemas.recipe import EmbedRecipe, RoiRecipe
from service.evaluation.comparison import Comparison
from service.model.registry import ModelRegistry
from tests.support.cli import CommandLine
from tests.support.parts import HEIGHT, QUICK, WIDTH, train_parts, write_parts
from tests.support.waiting import eventually

COMPARISON = {"comparison.csv", "comparison.html", "comparison.json"}


@pytest.fixture
def cangate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line."""
    monkeypatch.setenv("COLUMNS", "200")
    return CommandLine(monkeypatch, capsys)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small backbone."""
    path = tmp_path_factory.mktemp("weights") / "resnet10t.pth"
    torch.manual_seed(1)
    torch.save(timm.create_model("resnet10t").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """Four versions: the quick recipe, its twin, a timm backbone with a tau that nothing reaches, and GrabCut."""
    frames = write_parts(tmp_path_factory.mktemp("train"), 8)
    registry = ModelRegistry(tmp_path_factory.mktemp("store"))
    embed = EmbedRecipe(embedder="timm:resnet10t", weights=str(checkpoint), layers=(1, 2), input_side=96)
    quick, resnet = train_parts(frames), train_parts(frames, QUICK.model_copy(update={"embed": embed}))
    for trained in (
        quick,
        replace(quick, manifest=quick.manifest.model_copy(update={"tau": 2 * quick.manifest.tau})),
        replace(resnet, manifest=resnet.manifest.model_copy(update={"tau": 1.9})),
        train_parts(frames, QUICK.model_copy(update={"roi": RoiRecipe()})),
    ):
        trained.publish(registry)
    registry.activate("bars", "1")
    return registry.store


def comparison_in(report: Path) -> Comparison:
    return Comparison.model_validate_json((report / "comparison.json").read_bytes())


def test_compare_puts_models_side_by_side(
    cangate: CommandLine, store: Path, ok: Path, damaged: Path, masks: Path, tmp_path: Path
) -> None:
    """By name and by path: the ordinary report of each, and table, picture and disagreements of both."""
    report = tmp_path / "new" / "report"
    models = ("bars", store / "bars" / "3")
    given = ("--ok", ok, "--damaged", damaged, "--masks", masks)
    outcome = cangate("evaluate", "--compare", *models, *given, "-o", report, "--store", store)
    assert (outcome.status, outcome.stderr) == (0, "")
    names = ["bars@1", "bars@3"]
    assert {path.name for path in report.iterdir()} == {*names, *COMPARISON}
    for name in names:
        assert {path.name for path in (report / name).iterdir()} == {"metrics.json", "report.html", "results.csv"}

    comparison = comparison_in(report)
    assert [model.reference for model in comparison.models] == names
    for model in comparison.models:
        assert (
            model.evaluation.model_dump_json(indent=2) + "\n" == (report / model.reference / "metrics.json").read_text()
        )
        assert model.cost.frame_ms is not None
        assert model.cost.frame_ms > 0
    quick, resnet = (model.cost for model in comparison.models)
    assert (quick.weights_bytes, quick.input_side) == (0, 320)
    assert resnet.input_side == 96
    assert resnet.weights_bytes > 1_000_000
    if sys.platform == "linux":
        assert quick.peak_memory_bytes is not None
        assert resnet.peak_memory_bytes is not None
        assert quick.peak_memory_bytes > 0
        assert resnet.peak_memory_bytes > resnet.weights_bytes

    rows = list(csv.DictReader((report / "comparison.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == names
    assert float(rows[0]["auroc"]) == 1.0
    page = (report / "comparison.html").read_text()
    assert page.count("<circle") == 2
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|bars%40\d/report\.html")|url\(|@import""", page)
    assert {each.filename for each in comparison.disagreements} == {f"part{index}.png" for index in range(1, 5)}
    assert page.count("data:image/jpeg;base64,") == 2 * 4
    assert "they disagree on 4 of 9 frames" in outcome.stdout
    assert "image AUROC" in outcome.stdout


def test_compare_shows_what_can_be_compared(cangate: CommandLine, store: Path, ok: Path, tmp_path: Path) -> None:
    """Good frames only, of which one model can judge none: its figures are missing, those of the other are there."""
    folder = tmp_path / "grain"
    folder.mkdir()
    for shade in (90, 120):
        grain = np.random.default_rng(shade).normal(shade, 10, (HEIGHT, WIDTH, 3))
        cv2.imwrite(str(folder / f"{shade}.png"), np.clip(grain, 0, 255).astype(np.uint8))
    report = tmp_path / "report"
    (report / "bars@4").mkdir(parents=True)
    (report / "bars@4" / "notes.txt").write_text("mine")
    outcome = cangate("evaluate", "--compare", "bars@1", "bars@4", "--ok", folder, "-o", report, "--store", store)
    assert (outcome.status, outcome.stderr) == (1, "")
    assert "bars@4 could not judge 2 of 2 frames" in outcome.stdout
    assert "bars@4 cannot be ranked" in outcome.stdout
    quick, grabcut = comparison_in(report).models
    assert quick.accuracy is not None
    assert (grabcut.accuracy, grabcut.cost.frame_ms, grabcut.pareto) == (None, None, False)
    assert (report / "comparison.html").read_text().count("<circle") == 1
    assert (report / "bars@4" / "notes.txt").read_text() == "mine"
    assert ok.is_dir()


def test_compare_works_without_labels(cangate: CommandLine, store: Path, damaged: Path, tmp_path: Path) -> None:
    """Nothing to rank by: time, memory and where the models disagree. A package given twice is judged once."""
    models = ("bars@1", "bars@4", store / "bars" / "1")
    outcome = cangate("evaluate", "--compare", *models, "--frames", damaged, "-o", tmp_path, "--store", store)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "given twice" in outcome.stdout
    comparison = comparison_in(tmp_path)
    assert [model.reference for model in comparison.models] == ["bars@1", "bars@4"]
    assert comparison.ranked_by is None
    page = (tmp_path / "comparison.html").read_text()
    assert "<svg" not in page
    assert "unlabelled, called damaged" in page


def test_compare_refuses_in_one_line_and_writes_nothing(
    cangate: CommandLine, store: Path, ok: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few models, several without --compare, one that is not there, tampered, or whose weights are gone."""
    empty, blocked, tampered = tmp_path / "empty", tmp_path / "blocked", tmp_path / "tampered"
    empty.mkdir()
    blocked.touch()
    shutil.copytree(store / "bars" / "2", tampered)
    manifest = json.loads((tampered / "model.json").read_text())
    (tampered / "model.json").write_text(json.dumps(manifest | {"tau": 9.0}))
    rest = ("-o", tmp_path / "new" / "report", "--store", store)
    for given, named in (
        (("--compare", "bars@1", "--ok", ok, *rest), "two different models"),
        (("--compare", "bars@1", "bars", store / "bars" / "1", "--ok", ok, *rest), "two different models"),
        (("bars@1", "bars@2", "--ok", ok, *rest), "--compare"),
        (("--compare", "--ok", ok, *rest), "MODEL"),
        (("--compare", "bars@1", "bars@9", "--ok", ok, *rest), "bars@9"),
        (("--compare", "bars@1", "other", "--ok", ok, *rest), "other"),
        (("--compare", "bars@1", tampered, "--ok", ok, *rest), "tampered"),
        (("--compare", "bars@1", "bars@2", "--ok", empty, *rest), "empty"),
        (("--compare", "bars@1", "bars@2", *rest), "--frames"),
        (("--compare", "bars@1", "bars@2", "--ok", ok, "-o", blocked / "report", "--store", store), "blocked"),
    ):
        assert named in cangate("evaluate", *given).one_line_error()
    checkpoint.rename(tmp_path / "gone.pth")
    try:
        refusal = cangate("evaluate", "--compare", "bars@1", "bars@3", "--ok", ok, *rest).one_line_error()
    finally:
        (tmp_path / "gone.pth").rename(checkpoint)
    assert "bars@3" in refusal
    assert checkpoint.name in refusal
    monkeypatch.setenv("CANGATE_COMPUTE__DEVICE", "cuda:7")
    assert "cuda:7" in cangate("evaluate", "--compare", "bars@1", "bars@2", "--ok", ok, *rest).one_line_error()
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "blocked", "tampered"}


@pytest.mark.parametrize("ending", ["interrupt", "kill"])
async def test_compare_that_is_ended_leaves_nothing_behind(store: Path, tmp_path: Path, ending: str) -> None:
    """Ctrl-C in the terminal, or the death of the process that judges: one line, no report, no process."""
    frames = write_parts(tmp_path / "frames", 60, first_seed=500)
    report = tmp_path / "new" / "report"
    command = ("-m", "service.cli", "evaluate", "--compare", "bars@1", "bars@4", "--ok", frames, "-o", report)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, command),
        "--store",
        str(store),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        # a shell starts what runs in its background with SIGINT ignored, and that is inherited
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )

    def judge() -> int | None:
        """Return the process that judges: beside it there is only multiprocessing's tracker of resources."""
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
        except FileNotFoundError:
            return None
        return next((pid for pid, line in lines.items() if "spawn_main" in line), None)

    await eventually(lambda: judge() is not None, timeout_s=60)
    judging = judge()
    assert judging is not None
    if ending == "interrupt":
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(judging, signal.SIGKILL)
    async with asyncio.timeout(60):
        _, stderr = await process.communicate()
    expected = {
        "interrupt": (130, "cangate: interrupted\n"),
        "kill": (1, "cangate: bars@1: its process died, killed by SIGKILL, perhaps for want of memory\n"),
    }
    assert (process.returncode, stderr.decode()) == expected[ending]
    assert not report.parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(judging, 0)

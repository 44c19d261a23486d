"""`cangate evaluate`."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.model.registry import ModelRegistry
from tests.support.cli import CommandLine
from tests.support.parts import HEIGHT, WIDTH, train_parts, write_parts


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OK frames that the model is made from."""
    return write_parts(tmp_path_factory.mktemp("train"), 12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, trained_on: Path) -> Path:
    """A store with an active model."""
    registry = ModelRegistry(tmp_path_factory.mktemp("store"))
    train_parts(trained_on).publish(registry)
    registry.activate("bars", "1")
    return registry.store


def rows_of(report: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((report / "results.csv").read_text().splitlines()))


def test_evaluate_writes_rows_figures_and_a_page(
    cangate: CommandLine, store: Path, ok: Path, damaged: Path, masks: Path, tmp_path: Path
) -> None:
    """Everything is there: labels, image, pixel and box figures, and a page that needs nothing beside it."""
    report = tmp_path / "new" / "report"
    given = ("--ok", ok, "--damaged", damaged, "--masks", masks)
    outcome = cangate("evaluate", "bars", *given, "-o", report, "--store", store)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "AUROC 1.000" in outcome.stdout
    assert sorted(path.name for path in report.iterdir()) == ["metrics.json", "report.html", "results.csv"]

    assert (report / "results.csv").read_text().startswith("filename,s,decision,label,")
    rows = rows_of(report)
    assert [row["label"] for row in rows] == ["ok"] * 5 + ["damaged"] * 4
    assert [row["mask"] for row in rows] == [""] * 5 + [f"part{index}.png" for index in range(1, 5)]
    for row in rows:
        assert (float(row["s"]) >= float(row["tau"])) == (row["decision"] == "DAMAGED")

    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics["sets"]["ok"]["frames"] == 5
    assert metrics["sets"]["damaged"]["damaged"] == metrics["sets"]["damaged"]["frames"] == 4
    assert metrics["image"]["auroc"] == metrics["image"]["auprc"] == metrics["image"]["recall_at_tau"] == 1.0
    assert metrics["pixel"]["frames"] == 9
    assert metrics["pixel"]["auroc"] > 0.9
    assert metrics["pixel"]["aupro"] > 0.7
    assert metrics["boxes"]["frames"] == 4
    assert metrics["boxes"]["recall"] == 1.0
    assert metrics["median_ms"]["embed"] > 0

    page = (report / "report.html").read_text()
    assert "<svg" in page
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)|url\(|@import""", page)


@pytest.mark.parametrize("which", ["ok", "damaged", "frames"])
def test_evaluate_works_with_one_folder(
    cangate: CommandLine, store: Path, damaged: Path, tmp_path: Path, which: str
) -> None:
    """Figures that take both labels are null, everything else is there; what was called wrongly is on the page."""
    outcome = cangate("evaluate", "bars@1", f"--{which}", damaged, "-o", tmp_path, "--store", store)
    assert outcome.status == 0
    label = "unknown" if which == "frames" else which
    assert {row["label"] for row in rows_of(tmp_path)} == {label}
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["sets"]) == [label]
    assert metrics["image"]["auroc"] is None
    assert metrics["pixel"] is None
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == (0 if which == "damaged" else 4)
    assert ("Over-rejects: 4" in page) == (which == "ok")


def test_evaluate_keeps_frames_that_cannot_be_judged(
    cangate: CommandLine, store: Path, ok: Path, tmp_path: Path
) -> None:
    """They are rows with their reason, the others are judged, and the exit status is 1."""
    folder = tmp_path / "frames"
    folder.mkdir()
    good = (ok / "part1.png").read_bytes()
    (folder / "a.png").write_bytes(good[:300])
    (folder / "b.png").write_bytes(good)
    (folder / "c<i>.png").touch()
    (folder / "notes.txt").write_text("no picture")
    outcome = cangate("evaluate", "bars", "--ok", folder, "-o", tmp_path / "report", "--store", store)
    assert (outcome.status, outcome.stderr) == (1, "")
    assert "notes.txt" in outcome.stdout
    rows = rows_of(tmp_path / "report")
    assert [(row["decision"], row["reason"]) for row in rows] == [
        ("ERROR", "frame_corrupt"),
        ("OK", "score_below_threshold"),
        ("ERROR", "frame_corrupt"),
    ]
    assert all(row["detail"] and not row["s"] for row in rows if row["decision"] == "ERROR")
    assert "c&lt;i&gt;.png" in (tmp_path / "report" / "report.html").read_text()


def test_evaluate_judges_a_frame_whose_mask_does_not_fit(
    cangate: CommandLine, store: Path, damaged: Path, masks: Path, tmp_path: Path
) -> None:
    """The frame is judged without it, the row says why, and the exit status is 1."""
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "part1.png").write_bytes((masks / "part1.png").read_bytes())
    cv2.imwrite(str(folder / "part2.png"), np.full((HEIGHT // 2, WIDTH), 255, np.uint8))
    (folder / "part3.png").write_bytes((damaged / "part3.png").read_bytes())
    report = tmp_path / "report"
    given = ("--damaged", damaged, "--masks", folder, "-o", report, "--store", store)
    assert cangate("evaluate", "bars", *given).status == 1
    rows = rows_of(report)
    assert [bool(row["mask_refused"]) for row in rows] == [False, True, True, False]
    assert [row["components"] != "" for row in rows] == [True, False, False, False]
    metrics = json.loads((report / "metrics.json").read_text())
    assert (metrics["pixel"]["frames"], metrics["boxes"]["frames"], metrics["masks_refused"]) == (1, 1, 2)


def test_evaluate_claims_no_rate_for_a_tau_that_was_set_for_a_recall(
    cangate: CommandLine, store: Path, ok: Path, damaged: Path, tmp_path: Path
) -> None:
    """The limit of the OK frames was made for one, and is not tau."""
    models = shutil.copytree(store, tmp_path / "models")
    given = ("--ok", ok, "--damaged", damaged, "--store", models)
    assert cangate("calibrate", "bars@1", *given, "--target-recall", "1").status == 0
    rates = []
    for version in ("1", "2"):
        assert cangate("evaluate", f"bars@{version}", *given, "-o", tmp_path / version).status == 0
        rates.append(json.loads((tmp_path / version / "metrics.json").read_text())["tau_false_reject"])
    assert rates == [0.01, None]


def test_evaluate_says_that_frames_were_trained_on(
    cangate: CommandLine, store: Path, trained_on: Path, tmp_path: Path
) -> None:
    """Nobody is to take such figures for an accuracy."""
    outcome = cangate("evaluate", "bars", "--ok", trained_on, "-o", tmp_path, "--store", store)
    assert outcome.status == 0
    assert "training set: 12;" in outcome.stdout
    assert {row["trained_on"] for row in rows_of(tmp_path)} == {"True"}


def test_evaluate_refuses_what_is_not_there_in_one_line(
    cangate: CommandLine, store: Path, ok: Path, damaged: Path, masks: Path, tmp_path: Path
) -> None:
    """A model, a folder, pictures in it, anything to judge, masks of nothing or of others, a place to write to."""
    empty, blocked, others = tmp_path / "empty", tmp_path / "blocked", tmp_path / "others"
    empty.mkdir()
    others.mkdir()
    (others / "another.png").write_bytes((masks / "part1.png").read_bytes())
    blocked.touch()
    odd = tmp_path / "odd"
    (odd / "report.html").mkdir(parents=True)
    rest = ("-o", tmp_path / "report", "--store", store)
    for given, named in (
        (("other", "--ok", ok, *rest), "other"),
        (("bars", "--ok", tmp_path / "nowhere", *rest), "nowhere"),
        (("bars", "--ok", ok, "--masks", tmp_path / "nowhere", "--damaged", ok, *rest), "nowhere"),
        (("bars", "--damaged", empty, *rest), "empty"),
        (("bars", *rest), "--frames"),
        (("bars", "--ok", ok, "--masks", masks, *rest), "--damaged"),
        (("bars", "--damaged", damaged, "--masks", others, *rest), f"no mask in {others}"),
        (("bars", "--damaged", damaged, "--masks", empty, *rest), "as part1.png would"),
        (("bars", "--ok", ok, "-o", blocked / "report", "--store", store), "blocked"),
        (("bars", "--ok", ok, "--store", store), "-o"),
        (("bars", "--ok", ok, "-o", odd, "--store", store), "odd/report.html: it is a folder"),
    ):
        assert named in cangate("evaluate", *given).one_line_error()
    assert not (tmp_path / "report").exists()
    assert [path.name for path in odd.iterdir()] == ["report.html"]


def test_evaluate_says_that_frames_are_copies(cangate: CommandLine, store: Path, ok: Path, tmp_path: Path) -> None:
    """The same folder given twice is a slip that figures alone do not show."""
    outcome = cangate("evaluate", "bars", "--ok", ok, "--damaged", ok, "-o", tmp_path / "report", "--store", store)
    assert outcome.status == 0
    assert "copies of frames judged before, maybe with another label: 5" in outcome.stdout
    rows = rows_of(tmp_path / "report")
    assert [row["copy_of"] for row in rows if row["label"] == "damaged"] == [
        f"ok/{row['filename']}" for row in rows if row["label"] == "ok"
    ]


def test_evaluate_takes_a_name_that_is_no_utf8(cangate: CommandLine, store: Path, ok: Path, tmp_path: Path) -> None:
    """It is escaped in CSV, JSON and page."""
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / os.fsdecode(b"\xff\xe9.png")).write_bytes(next(ok.iterdir()).read_bytes())
    assert cangate("evaluate", "bars", "--ok", folder, "-o", tmp_path / "report", "--store", store).status == 0
    assert [row["filename"] for row in rows_of(tmp_path / "report")] == [r"\xff\xe9.png"]


@pytest.mark.parametrize("option", ["--ok", "--frames"])
def test_report_is_not_written_into_what_is_judged(cangate: CommandLine, store: Path, ok: Path, option: str) -> None:
    """The next command would complain of its files."""
    before = sorted(ok.rglob("*"))
    for report in (ok, ok / "report"):
        refused = cangate("evaluate", "bars", option, ok, "-o", report, "--store", store).one_line_error()
        assert refused == f"cangate: cannot write {report}: it lies in {ok}, which is read; name another folder"
    assert sorted(ok.rglob("*")) == before

"""Two real photos of canisters: scratches and dents painted onto them, judged by models of sound views.

    python -m benchmarks.canister_photos PHOTOS MASKS [-o FOLDER] [--embedder starter]

There are no other photos of these parts, so a view is the photo shifted, turned, dimmed, blurred, with noise and JPEG
anew, as a fixture would show it again. Each photo is judged once by a model of its own views and once by a model of the
other part's: the two stand at different distances and in different light, so that even sound views are strange to it.
Damage covers 2% of the canister. Printed are the scores of sound and of damaged views; FOLDER gets a picture of one
damaged view of each kind with what was found.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.accuracy_rendered import auroc
from benchmarks.models import model_of
from benchmarks.roi import read_mask, read_photo
from schemas.recipe import EmbedRecipe, Recipe
from service.evaluation.pictures import draw_boxes
from service.model.package import InspectionPipeline
from service.model.registry import ModelRegistry
from service.pipeline.types import BgrImage, Frame, Inspection, Mask

TRAINED, SOUND, DAMAGED = 24, 12, 6
"""Views to train on, sound views to judge, and views with each kind of damage."""
AREA = 0.02
"""Of the canister, that damage covers."""

Rng = np.random.Generator
Painter = Callable[[BgrImage, Mask, Rng], BgrImage]


def view(bgr: BgrImage, mask: Mask, rng: Rng) -> tuple[BgrImage, Mask]:
    """Return the photo as a camera would take it another time, and where the canister is on it."""
    height, width = bgr.shape[:2]
    matrix = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), rng.normal(0, 1), 1), np.float64)
    matrix[:, 2] += rng.normal(0, 6, 2)
    moved = cv2.warpAffine(bgr, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    shown = cv2.warpAffine(mask.astype(np.uint8), matrix, (width, height)) > 0
    lit = cv2.GaussianBlur(moved, (0, 0), rng.uniform(0.3, 0.8)).astype(np.float32)
    lit = 255 * (lit / 255) ** np.exp(rng.normal(0, 0.05)) * np.exp(rng.normal(0, 0.04))
    noisy = np.clip(lit + rng.normal(0, 2, bgr.shape), 0, 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8), np.asarray(shown)


def scratch(bgr: BgrImage, mask: Mask, rng: Rng) -> BgrImage:
    """Draw a bundle of bright and dark lines."""
    shape = np.zeros(mask.shape, np.float32)
    (x, y), angle = _place(mask, rng), rng.uniform(0, np.pi)
    length = 2.2 * np.sqrt(AREA * np.count_nonzero(mask))
    while np.count_nonzero(shape[mask] > 0.2) < AREA * np.count_nonzero(mask):
        dx, dy = length * np.cos(angle) / 2, length * np.sin(angle) / 2
        start, end = ((round(x - dx), round(y - dy)), (round(x + dx), round(y + dy)))
        cv2.line(shape, start, end, 1.0, 2, cv2.LINE_AA)
        x, y, angle = x + rng.normal(0, 0.12 * length), y + rng.normal(0, 0.12 * length), angle + rng.normal(0, 0.06)
    light = 45 * cv2.GaussianBlur(shape, (0, 0), 0.8) - 30 * np.roll(cv2.GaussianBlur(shape, (0, 0), 1.2), 3, axis=0)
    return _onto(bgr, mask, light)


def dent(bgr: BgrImage, mask: Mask, rng: Rng) -> BgrImage:
    """Bend what is mirrored in a round spot: one flank bright, the other dark."""
    x0, y0 = _place(mask, rng)
    radius = np.sqrt(AREA * np.count_nonzero(mask) / np.pi)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    bell = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * (0.55 * radius) ** 2)).astype(np.float32)
    pull = np.float32(0.35) * bell
    bent = cv2.remap(bgr, x - (x - x0) * pull, y - (y - y0) * pull, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    lamp = rng.uniform(0, 2 * np.pi)
    light = 45 * bell * ((x - x0) * np.cos(lamp) + (y - y0) * np.sin(lamp)) / np.float32(0.55 * radius)
    return _onto(np.asarray(bent, np.uint8), mask, light)


PAINTERS: dict[str, Painter] = {"scratch": scratch, "dent": dent}


def _place(mask: Mask, rng: Rng) -> tuple[float, float]:
    inner = cv2.erode(mask.astype(np.uint8), np.ones((81, 81), np.uint8))
    rows, columns = np.nonzero(inner)
    pick = int(rng.integers(len(rows)))
    return float(columns[pick]), float(rows[pick])


def _onto(bgr: BgrImage, mask: Mask, light: np.ndarray) -> BgrImage:
    return np.asarray(np.clip(bgr + (light * mask)[..., None], 0, 255), np.uint8)


def judge(pipeline: InspectionPipeline, bgr: BgrImage) -> Inspection:
    """Return what the whole pipeline says."""
    (inspection,) = pipeline.inspect([Frame(bgr)])
    return inspection


def picture(bgr: BgrImage, found: Inspection) -> BgrImage:
    """Return the part with its boxes, cut out."""
    drawn = draw_boxes(bgr, np.array([box.xyxy for box in found.boxes], np.int32).reshape(-1, 4))
    x1, y1, x2, y2 = found.prepared.roi.xyxy
    return drawn[max(y1 - 20, 0) : y2 + 20, max(x1 - 20, 0) : x2 + 20]


def main() -> None:
    """Train, judge, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("-o", "--out", type=Path, help="folder for pictures")
    parser.add_argument("--embedder", default="starter")
    arguments = parser.parse_args()
    recipe = Recipe(embed=EmbedRecipe(embedder=arguments.embedder))
    parts = {
        path.stem: (read_photo(arguments.photos / path.name), read_mask(path))
        for path in sorted(arguments.masks.glob("*.png"))
    }
    models = {}
    for name, (bgr, mask) in parts.items():
        rng = np.random.default_rng(1)
        store, model = model_of([view(bgr, mask, rng)[0] for _ in range(TRAINED)], recipe)
        models[name] = InspectionPipeline.from_package(ModelRegistry(store).resolve(model))
    for name, (bgr, mask) in parts.items():
        for trained, pipeline in models.items():
            rng = np.random.default_rng(2)
            sound = np.array([judge(pipeline, view(bgr, mask, rng)[0]).score for _ in range(SOUND)])
            print(f"{name} by a model of {trained}, tau {pipeline.tau:.3f}")
            print(
                f"  sound   {sound.min():.3f} to {sound.max():.3f}; {np.mean(sound >= pipeline.tau):.0%} called damaged"
            )
            for kind, paint in PAINTERS.items():
                shown = [paint(*view(bgr, mask, rng), rng) for _ in range(DAMAGED)]
                found = [judge(pipeline, each) for each in shown]
                scores = np.array([each.score for each in found])
                print(
                    f"  {kind:7} {scores.min():.3f} to {scores.max():.3f}; "
                    f"{np.mean(scores >= pipeline.tau):.0%} called damaged; AUROC {auroc(sound, scores):.2f}"
                )
                if arguments.out is not None and trained == name:
                    arguments.out.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(arguments.out / f"{name}-{kind}.jpg"), picture(shown[0], found[0]))


if __name__ == "__main__":
    main()

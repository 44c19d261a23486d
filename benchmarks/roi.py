"""Region of interest and normalisation: how good and how fast.

    python -m benchmarks.roi masks FOUND TRUE     IoU of FOUND/STEM_mask.png (`cangate inspect -o`) with TRUE/STEM.png
    python -m benchmarks.roi photos PHOTOS TRUE   the finder on photos, each also shifted, turned, dimmed, blurred...
    python -m benchmarks.roi rendered [--frames 100] [--first 50000]
    python -m benchmarks.roi time [--photo FILE] [--repeats 20]

`time` is CPU time of one thread on a frame of 1920 x 1440, best and median of the repeats; normalisation stands beside
the same steps in floating point.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from adapters.simulation.damage import random_damage
from adapters.simulation.renderer import CameraStyle, render_canister
from schemas.recipe import NormalizeRecipe, RoiRecipe
from service.errors import RoiNotFound
from service.pipeline.normalize import NEUTRAL, normalize, normalize_colours
from service.pipeline.roi import RoiFinder, build_roi_finder
from service.pipeline.roi.coarse_box import survey
from service.pipeline.types import BgrImage, Mask


def read_mask(path: Path) -> Mask:
    """Return a 0/255 mask file as bool. Raises SystemExit where it cannot be read."""
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise SystemExit(f"{path}: no image")
    return np.asarray(mask > 127, np.bool_)


def read_photo(path: Path) -> BgrImage:
    """Return a photo. Raises SystemExit where it cannot be read."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise SystemExit(f"{path}: no image")
    return np.asarray(bgr, np.uint8)


def mask_iou(one: Mask, other: Mask) -> float:
    """Return intersection over union of two masks; two empty ones are the same."""
    union = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / union if union else 1.0


def found_iou(finder: RoiFinder, bgr: BgrImage, truth: Mask) -> float:
    """Return the IoU of the ROI with the truth, 0 where none was found."""
    try:
        return mask_iou(finder.find(bgr).mask, truth)
    except RoiNotFound:
        return 0.0


def variations(bgr: BgrImage, truth: Mask) -> Iterator[tuple[str, BgrImage, Mask]]:
    """Yield a photo as other cameras and other moments could have shown it, each with its true mask."""
    height, width = truth.shape
    mask_image = truth.astype(np.uint8) * np.uint8(255)

    def moved(matrix: npt.NDArray[np.float64], border: int) -> tuple[BgrImage, Mask]:
        shown = cv2.warpAffine(bgr, matrix, (width, height), borderMode=border)
        return np.asarray(shown, np.uint8), np.asarray(cv2.warpAffine(mask_image, matrix, (width, height)) > 127)

    yield "as it is", bgr, truth
    yield "flipped", bgr[:, ::-1].copy(), truth[:, ::-1].copy()
    for gamma in (0.4, 0.6, 1.6, 2.2):
        yield f"gamma {gamma}", (255 * (bgr / 255.0) ** gamma).astype(np.uint8), truth
    for gain in (0.35, 0.6, 1.4):
        yield f"gain {gain}", np.clip(bgr * gain, 0, 255).astype(np.uint8), truth
    yield "warm light", np.clip(bgr * np.array([0.75, 1.0, 1.2]), 0, 255).astype(np.uint8), truth
    yield "no colour", cv2.cvtColor(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR).astype(np.uint8), truth
    for sigma in (2, 5, 9):
        yield f"blur {sigma}", cv2.GaussianBlur(bgr, (0, 0), sigma).astype(np.uint8), truth
    for deviation in (8, 20):
        noise = np.random.default_rng(1).normal(0, deviation, bgr.shape)
        yield f"noise {deviation}", np.clip(bgr + noise, 0, 255).astype(np.uint8), truth
    for factor in (1 / 2, 1 / 3, 1 / 6):
        size = round(width * factor), round(height * factor)
        small_mask = cv2.resize(mask_image, size, interpolation=cv2.INTER_AREA) > 127
        yield (
            f"{size[0]} x {size[1]}",
            cv2.resize(bgr, size, interpolation=cv2.INTER_AREA).astype(np.uint8),
            np.asarray(small_mask),
        )
    for degrees in (-8, -5, -3, 3, 5, 8):
        turn = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0), np.float64)
        yield f"turned {degrees}", *moved(turn, cv2.BORDER_REFLECT_101)
    for right, down in ((-450, 0), (-300, 0), (300, 0), (0, -150), (0, 120), (-200, 100), (250, -100), (450, 50)):
        shift = np.array([[1.0, 0.0, right], [0.0, 1.0, down]])
        yield f"shifted {right}, {down}", *moved(shift, cv2.BORDER_REPLICATE)
    rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    for margin in (60, 150, 250):
        cut = (
            slice(max(rows[0] - margin, 0), rows[-1] + margin),
            slice(max(columns[0] - margin, 0), columns[-1] + margin),
        )
        yield f"cropped to {margin} px around", bgr[cut].copy(), truth[cut].copy()
    for name, bars in (("above", (240, 240, 0, 0)), ("beside", (0, 0, 300, 300))):
        barred = cv2.copyMakeBorder(mask_image, *bars, cv2.BORDER_CONSTANT) > 127
        yield (
            f"letterbox bars {name}",
            cv2.copyMakeBorder(bgr, *bars, cv2.BORDER_CONSTANT).astype(np.uint8),
            np.asarray(barred),
        )


def summarise(ious: list[float]) -> None:
    """Print median, tail and worst of some IoUs."""
    below = ", ".join(f"{sum(iou < limit for iou in ious)} below {limit}" for limit in (0.95, 0.93, 0.80))
    print(f"{len(ious)} frames: median {np.median(ious):.4f}, worst {min(ious):.4f}, {below}")


def compare_masks(found: Path, true: Path) -> None:
    """Print the IoU of mask files with the true ones."""
    ious = []
    for path in sorted(true.glob("*.png")):
        iou = mask_iou(read_mask(found / f"{path.stem}_mask.png"), read_mask(path))
        print(f"{path.stem:24} {iou:.4f}")
        ious.append(iou)
    if not ious:
        raise SystemExit(f"{true}: no masks")
    summarise(ious)


def judge_photos(photos: Path, true: Path) -> None:
    """Print the IoU of the default finder on photos and their variations."""
    finder = build_roi_finder(RoiRecipe())
    ious = []
    for path in sorted(true.glob("*.png")):
        for name, bgr, truth in variations(read_photo(photos / path.name), read_mask(path)):
            ious.append(found_iou(finder, bgr, truth))
            print(f"{path.stem:16} {name:28} {ious[-1]:.4f}")
    if not ious:
        raise SystemExit(f"{true}: no masks")
    summarise(ious)


def judge_rendered(frames: int, first: int) -> None:
    """Print the IoU on rendered frames with clutter, every second one damaged."""
    finder = build_roi_finder(RoiRecipe())
    ious = []
    for seed in range(first, first + frames):
        damage = random_damage(np.random.default_rng([seed, 3])) if seed % 2 else None
        frame = render_canister(seed, damage=damage, style=CameraStyle.VARIED)
        ious.append(found_iou(finder, frame.bgr, frame.mask))
        if ious[-1] < 0.93:
            print(f"seed {seed}: {ious[-1]:.4f}")
    summarise(ious)


def normalize_in_float(pixels: BgrImage, inside: Mask, recipe: NormalizeRecipe) -> BgrImage:
    """Return what `normalize_colours` returns, by the textbook: floating point throughout, CLAHE apart."""
    image = pixels.astype(np.float32) / 255
    means = image[inside].mean(axis=0)
    image = np.clip(image * (means.mean() / means), 0, 1).astype(np.float32)
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
    lightness = np.rint(lab[..., 0] * 2.55).astype(np.uint8)
    lightness[~inside] = round(float(lightness[inside].mean()))
    tiles = [max(1, round(recipe.clahe_tiles * side / recipe.side)) for side in lightness.shape]
    lab[..., 0] = cv2.createCLAHE(recipe.clahe_clip, (tiles[1], tiles[0])).apply(lightness).astype(np.float32) / 2.55
    result = np.rint(np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2BGR), 0, 1) * 255).astype(np.uint8)
    result[~inside] = NEUTRAL
    return np.asarray(result, np.uint8)


def thread_ms(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return best and median CPU time of the calling thread, ms."""
    times = []
    for _ in range(repeats):
        started = time.thread_time()
        work()
        times.append(1000 * (time.thread_time() - started))
    return min(times), float(np.median(times))


def measure_time(photo: Path | None, repeats: int) -> None:
    """Print CPU times on one frame."""
    cv2.setNumThreads(1)
    bgr = read_photo(photo) if photo else render_canister(0, style=CameraStyle.VARIED, resolution_wh=(1920, 1440)).bgr
    print(f"frame {bgr.shape[1]} x {bgr.shape[0]}, one thread, CPU ms: best, median of {repeats}")
    recipe, norm = RoiRecipe(), NormalizeRecipe()
    finder = build_roi_finder(recipe)
    roi = finder.find(bgr)
    whole = normalize(bgr, roi, norm)
    columns = np.flatnonzero(whole.mask.any(axis=0))
    strip = slice(columns[0], columns[-1] + 1)
    pixels, inside = np.ascontiguousarray(whole.bgr[:, strip]), np.ascontiguousarray(whole.mask[:, strip])
    rows: tuple[tuple[str, Callable[[], object]], ...] = (
        ("coarse boxes", lambda: survey(bgr, recipe)),
        ("coarse boxes and GrabCut, full mask", lambda: finder.find(bgr)),
        ("normalisation, crop and resize included", lambda: normalize(bgr, roi, norm)),
        ("its colours: look-up tables", lambda: normalize_colours(pixels, inside, norm)),
        ("its colours: floating point", lambda: normalize_in_float(pixels, inside, norm)),
    )
    for name, work in rows:
        best, median = thread_ms(work, repeats)
        print(f"{name:42} {best:7.2f} {median:7.2f}")
    apart = np.abs(
        normalize_colours(pixels, inside, norm).astype(int) - normalize_in_float(pixels, inside, norm).astype(int)
    )[inside]
    print(f"difference of the two pictures, grey levels: mean {apart.mean():.2f}, 99% {np.percentile(apart, 99):.0f}")


def main() -> None:
    """Run one section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = parser.add_subparsers(dest="section", required=True)
    masks = sections.add_parser("masks")
    masks.add_argument("found", type=Path)
    masks.add_argument("true", type=Path)
    photos = sections.add_parser("photos")
    photos.add_argument("photos", type=Path)
    photos.add_argument("true", type=Path)
    rendered = sections.add_parser("rendered")
    rendered.add_argument("--frames", type=int, default=100)
    rendered.add_argument("--first", type=int, default=50_000)
    timing = sections.add_parser("time")
    timing.add_argument("--photo", type=Path)
    timing.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    match arguments.section:
        case "masks":
            compare_masks(arguments.found, arguments.true)
        case "photos":
            judge_photos(arguments.photos, arguments.true)
        case "rendered":
            judge_rendered(arguments.frames, arguments.first)
        case _:
            measure_time(arguments.photo, arguments.repeats)


if __name__ == "__main__":
    main()

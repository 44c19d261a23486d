"""Episodes: a few views of one station's surface, some of them damaged: a model is trained and parts are judged.

The first views are what a memory bank would be made of; the others are judged against them. Views of an episode are
the same place photographed again, other places of one surface, or other parts with the same texture; light, focus and
noise vary between all of them, since none of that is damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from service.pipeline.normalize import NEUTRAL
from service.pipeline.types import BgrImage, FloatArray, Mask
from service.pretraining.damage import paint
from service.pretraining.noise import even_noise, log_uniform, smooth_noise
from service.pretraining.photos import Photos
from service.pretraining.surfaces import stationary, surface

Rng = np.random.Generator
Part = tuple[BgrImage, Mask]
Parts = Callable[[Rng, int], Sequence[Part]]
"""Draws `count` pictures (side, side, 3) of undamaged parts of one station with their masks."""

SIDE = 128
"""Side of a view, px."""
CANVAS_SIDE = 240
REFERENCES, JUDGED = 2, 2
"""Views that make the bank, and views that are judged."""
VIEWS = REFERENCES + JUDGED
SMALLEST_PART = 700
"""Pixels; a view that shows less of a part is taken for all part."""


class Label(IntEnum):
    """What a pixel is: damage that nobody could see is neither."""

    SOUND = 0
    DAMAGED = 1
    DOUBTFUL = 2


@dataclass(frozen=True, slots=True)
class Episode:
    """images: (VIEWS, SIDE, SIDE, 3) uint8 BGR. covered, labels: (VIEWS, SIDE, SIDE) uint8: 1 on the part; `Label`."""

    images: npt.NDArray[np.uint8]
    covered: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Station:
    """What stays the same from view to view: how strongly light, focus and noise vary, and how pictures are treated."""

    light: float
    blur: float
    noise: float
    clahe: bool
    jpeg: bool

    @classmethod
    def draw(cls, rng: Rng) -> _Station:
        return cls(
            light=log_uniform(rng, 0.1, 1),
            blur=rng.uniform(0, 0.8) if rng.random() < 0.5 else 0.0,
            noise=log_uniform(rng, 0.002, 0.02),
            clahe=rng.random() < 0.55,
            jpeg=rng.random() < 0.25,
        )

    def photograph(self, rng: Rng, image: FloatArray) -> BgrImage:
        """Return the picture of a view under the light of the moment."""
        if rng.random() < 0.8:
            shading = np.clip(even_noise(rng, SIDE, log_uniform(rng, 25, 80)), -2, 2) * rng.uniform(0, 1)
            image = image * (1 + 0.25 * self.light * shading)[..., None]
        gamma, gain = np.exp(rng.normal(0, self.light, 2) * (0.2, 0.25))
        image = np.clip(image, 1e-4, 1) ** np.float32(gamma) * np.float32(gain)
        image = image + np.float32(rng.normal(0, 0.05 * self.light))
        if self.blur:
            sigma = max(rng.uniform(0, self.blur), 0.15)
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
        image = image + rng.standard_normal((SIDE, SIDE, 1), np.float32) * self.noise
        picture = np.asarray(np.clip(image, 0, 1) * 255, np.uint8)
        if self.clahe:
            lab = cv2.cvtColor(picture, cv2.COLOR_BGR2LAB)
            lab[..., 0] = cv2.createCLAHE(2.0, (3, 3)).apply(lab[..., 0])
            picture = np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2BGR), np.uint8)
        if self.jpeg:
            _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 95))])
            picture = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
        return picture


def draw_episode(rng: Rng, photos: Photos, parts: Parts | None = None, parts_share: float = 0.12) -> Episode:
    """Draw one episode; a share `parts_share` shows `parts` where there are any."""
    if parts is not None and rng.random() < parts_share:
        views = _views_of_parts(rng, parts)
    else:
        views = _views_of_surface(rng, photos)
    station = _Station.draw(rng)
    images, covered, labels = (
        np.zeros((VIEWS, SIDE, SIDE, 3), np.uint8),
        np.zeros((VIEWS, SIDE, SIDE), np.uint8),
        np.zeros((VIEWS, SIDE, SIDE), np.uint8),
    )
    for index, (image, weight) in enumerate(views):
        changed, label = np.zeros((2, SIDE, SIDE), bool)
        damages = int(rng.choice([1, 1, 2, 3])) if index >= REFERENCES and rng.random() < 0.85 else 0
        for _ in range(damages):
            painted = paint(rng, image, weight, lambda: surface(rng, SIDE, photos))
            image = painted.image  # noqa: PLW2901 - damage upon damage
            if painted.label is None:
                changed |= painted.changed
            else:
                label |= painted.label
        images[index] = np.where(weight[..., None] > 0, station.photograph(rng, image), NEUTRAL)
        covered[index] = weight
        labels[index] = np.where(label & (weight > 0), Label.DAMAGED, np.where(changed, Label.DOUBTFUL, Label.SOUND))
    return Episode(images, covered, labels)


def _views_of_parts(rng: Rng, parts: Parts) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield crops at one place of several parts of a station."""
    pictures = parts(rng, VIEWS)
    side = len(pictures[0][0])
    zoom = rng.uniform(max(0.35, SIDE / side / 1.4), 0.7)
    span = int(SIDE / zoom)
    rows, columns = np.nonzero(pictures[0][1])
    pick = int(rng.integers(len(rows)))
    top, left = (int(np.clip(at - span / 2, 0, max(side - span, 0))) for at in (rows[pick], columns[pick]))
    for bgr, mask in pictures:
        dy, dx = (int(np.clip(at + rng.normal(0, 3), 0, max(side - span, 0))) for at in (top, left))
        crop = cv2.resize(bgr[dy : dy + span, dx : dx + span], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        inside = mask[dy : dy + span, dx : dx + span].astype(np.float32)
        weight = np.asarray(cv2.resize(inside, (SIDE, SIDE), interpolation=cv2.INTER_AREA) >= 0.5, np.float32)
        yield np.asarray(crop, np.float32) / np.float32(255), _enough(weight)


def _views_of_surface(rng: Rng, photos: Photos) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield the same place again, other places of one surface, or other surfaces of one texture."""
    fresh = stationary(rng, photos, CANVAS_SIDE) if rng.random() < 0.22 else None
    canvas = fresh(rng) if fresh else surface(rng, CANVAS_SIDE, photos)
    weight, shade = _silhouette(rng) if rng.random() < 0.4 else (np.ones((CANVAS_SIDE,) * 2, np.float32), None)
    if rng.random() < 0.5:  # the light of the station
        sigma_xy = (log_uniform(rng, 30, 90), log_uniform(rng, 30, 90))
        lamp = np.clip(smooth_noise(rng, CANVAS_SIDE, sigma_xy), -2, 2) * rng.uniform(0, 0.3)
        shade = 1 + lamp if shade is None else shade * (1 + lamp)
    aligned = fresh is None and rng.random() < 0.5
    middle = CANVAS_SIDE / 2
    place = rng.uniform(SIDE / 2, CANVAS_SIDE - SIDE / 2, 2) if weight.all() else np.full(2, middle)
    zoom, degrees = log_uniform(rng, 0.75, 1.5), rng.uniform(-180, 180) if rng.random() < 0.2 else 0.0
    play = max(middle - SIDE / 2 / zoom, 0)
    for index in range(VIEWS):
        if fresh and index:
            canvas = fresh(rng)
        shaded = canvas if shade is None else np.clip(canvas * shade[..., None], 0, 1)
        if aligned:
            centre, turn, scale = place + rng.normal(0, 4, 2), rng.normal(0, 1.5), np.exp(rng.normal(0, 0.02))
        else:
            centre, turn, scale = middle + rng.uniform(-play, play, 2), rng.normal(0, 3), np.exp(rng.normal(0, 0.06))
        view = _Window(tuple(centre.tolist()), degrees + turn, zoom * scale)
        image = view.cut(shaded, cv2.INTER_AREA if view.zoom < 1 else cv2.INTER_LINEAR)
        if not aligned and rng.random() < 0.3:
            image = image + even_noise(rng, SIDE, log_uniform(rng, 0.5, 10))[..., None] * image.std() * 0.25
        yield image, _enough(np.asarray(view.cut(weight, cv2.INTER_NEAREST) > 0.5, np.float32))


@dataclass(frozen=True, slots=True)
class _Window:
    """A square of SIDE pixels somewhere on a canvas, turned and zoomed."""

    centre_xy: tuple[float, float]
    degrees: float
    zoom: float

    def cut(self, canvas: FloatArray, interpolation: int) -> FloatArray:
        turn = np.asarray(cv2.getRotationMatrix2D(self.centre_xy, float(self.degrees), float(self.zoom)), np.float64)
        turn[:, 2] += SIDE / 2 - np.array(self.centre_xy)
        cut = cv2.warpAffine(canvas, turn, (SIDE, SIDE), flags=interpolation, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(cut, np.float32)


def _silhouette(rng: Rng) -> tuple[FloatArray, FloatArray | None]:
    """Return a part's outline on the canvas, and how its rim is shaded."""
    side = CANVAS_SIDE
    weight = np.zeros((side, side), np.float32)
    x, y = (side / 2 + rng.uniform(-30, 30, 2)).tolist()
    width, height = rng.uniform(90, 260, 2).tolist()
    kind = int(rng.integers(4))
    if kind == 0:
        cv2.ellipse(weight, ((x, y), (width, height), rng.uniform(0, 180)), 1, -1)
    elif kind in {1, 2}:
        degrees = rng.uniform(-15, 15) if kind == 2 else 0.0
        corners = cv2.boxPoints(((x, y), (width, height), degrees))
        cv2.fillPoly(weight, [np.asarray(corners, np.int32)], 1)
    else:  # a body with a neck
        for half_width, top in ((width / 2, y - height / 4), (width / 4, y - height / 2)):
            cv2.rectangle(weight, (int(x - half_width), int(top)), (int(x + half_width), side), 1, -1)
        rounded = cv2.GaussianBlur(weight, (0, 0), log_uniform(rng, 1, 12)) > 0.5
        weight = np.asarray(rounded, np.float32)
    if rng.random() >= 0.6:
        return weight, None
    depth = np.clip(2 * cv2.GaussianBlur(weight, (0, 0), log_uniform(rng, 2, 16)) - 1, 0, 1)
    return weight, np.asarray(1 - rng.uniform(-0.5, 0.9) * (1 - depth) * weight, np.float32)


def _enough(weight: FloatArray) -> FloatArray:
    return weight if weight.sum() >= SMALLEST_PART else np.ones_like(weight)


class EpisodeStream(IterableDataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """Endless episodes; which ones follows from the seed, the worker and the first step."""

    def __init__(self, photos: Photos, parts: Parts | None, seed: int, first_step: int) -> None:
        self.photos, self.parts, self.seed, self.first_step = photos, parts, seed, first_step

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield images, covered and labels of one episode after the other."""
        cv2.setNumThreads(1)
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0, self.first_step])
        while True:
            episode = draw_episode(rng, self.photos, self.parts)
            yield tuple(map(torch.from_numpy, (episode.images, episode.covered, episode.labels)))  # type: ignore[misc]  # three

"""Draws scores and what a threshold does to them, for people. Pictures are (H, W, 3) uint8 BGR."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from service.evaluation.pictures import DAMAGED_BGR, INK_BGR, OK_BGR, PAPER_BGR, Colour
from service.model.sweep import OperatingPoint
from service.pipeline.types import BgrImage

WIDTH, HEIGHT = 1100, 820
_LEFT, _RIGHT = 80, 1070
_PANELS = ((80, 380), (460, 760))
"""Top and bottom of the histogram and of the curves, px."""
_BINS = 60
_GRID_BGR: Colour = (225, 225, 225)
_TAU_BGR: Colour = (0, 0, 0)
_FONT = cv2.FontFace("sans")


def threshold_picture(title: str, ok: Sequence[float], damaged: Sequence[float], point: OperatingPoint) -> BgrImage:
    """Return the distribution of OK and damaged scores with tau, and below it false rejects and recall against tau.

    ok: one score at least. damaged: may be empty, then there is no recall.
    """
    picture = np.full((HEIGHT, WIDTH, 3), PAPER_BGR, np.uint8)
    groups = [("OK", np.asarray(ok, np.float64), OK_BGR), ("damaged", np.asarray(damaged, np.float64), DAMAGED_BGR)]
    every = np.concatenate([scores for _, scores, _ in groups])
    low, high = min(float(every.min()), point.tau), max(float(every.max()), point.tau)
    margin = 0.05 * (high - low) or 0.05 * high or 1.0
    low, high = max(0.0, low - margin), high + margin
    _text(picture, title, (_LEFT, 40), size=22)
    edges = np.linspace(low, high, _BINS + 1)
    counts = [np.histogram(scores, edges)[0] for _, scores, _ in groups]
    highest = max(int(count.max()) for count in counts)
    _axes(picture, _PANELS[0], (low, high), [(0.0, "0"), (1.0, str(highest))], "frames")
    for (_, _, colour), count in zip(groups, counts, strict=True):
        _bars(picture, _PANELS[0], count / highest, colour)
    _axes(picture, _PANELS[1], (low, high), [(share, f"{share:.0%}") for share in (0.0, 0.5, 1.0)], "rejected at tau")
    for place, (name, scores, colour) in enumerate(groups):
        words = f"{name}: {len(scores)} frames"
        if len(scores):
            _rejected(picture, _PANELS[1], scores, (low, high), colour)
            words += f", {np.count_nonzero(scores >= point.tau)} rejected"
        _text(picture, words, (_RIGHT - 330 * (2 - place), 70), colour=colour)
    column = _column(point.tau, (low, high))
    for top, bottom in _PANELS:
        cv2.line(picture, (column, top), (column, bottom), _TAU_BGR, 2)
    _text(picture, f"tau {point.tau:.4f}", (min(column + 8, _RIGHT - 100), _PANELS[0][0] + 18), colour=_TAU_BGR)
    return picture


def _bars(picture: BgrImage, panel: tuple[int, int], shares: npt.NDArray[np.float64], colour: Colour) -> None:
    """Draw one see-through bar a bin, shares (B,) 0..1 of the panel's height."""
    drawn = picture.copy()
    edges = np.linspace(_LEFT, _RIGHT, len(shares) + 1)
    for left, right, share in zip(edges[:-1], edges[1:], shares, strict=True):
        if share:
            top = round(panel[1] - share * (panel[1] - panel[0]))
            cv2.rectangle(drawn, (round(left) + 1, top), (round(right) - 1, panel[1]), colour, cv2.FILLED)
    cv2.addWeighted(drawn, 0.6, picture, 0.4, 0, picture)


def _rejected(
    picture: BgrImage,
    panel: tuple[int, int],
    scores: npt.NDArray[np.float64],
    span: tuple[float, float],
    colour: Colour,
) -> None:
    """Draw the share of `scores` at or above each threshold in `span`."""
    columns = np.arange(_LEFT, _RIGHT + 1)
    taus = span[0] + (columns - _LEFT) / (_RIGHT - _LEFT) * (span[1] - span[0])
    shares = 1 - np.searchsorted(np.sort(scores), taus, side="left") / len(scores)
    line = np.column_stack([columns, np.round(panel[1] - shares * (panel[1] - panel[0]))]).astype(np.int32)
    cv2.polylines(picture, [line], isClosed=False, color=colour, thickness=2, lineType=cv2.LINE_AA)


def _axes(
    picture: BgrImage,
    panel: tuple[int, int],
    span: tuple[float, float],
    heights: Sequence[tuple[float, str]],
    name: str,
) -> None:
    top, bottom = panel
    for share, words in heights:
        row = round(bottom - share * (bottom - top))
        cv2.line(picture, (_LEFT, row), (_RIGHT, row), _GRID_BGR, 1)
        _text(picture, words, (_LEFT - 55, row + 5))
    for score in np.linspace(*span, 6):
        _text(picture, f"{score:.3f}", (_column(score, span) - 20, bottom + 24))
    _text(picture, name, (_LEFT, top - 12))
    _text(picture, "score", (_RIGHT - 40, bottom + 46))


def _column(score: float, span: tuple[float, float]) -> int:
    return round(_LEFT + (score - span[0]) / (span[1] - span[0]) * (_RIGHT - _LEFT))


def _text(picture: BgrImage, words: str, at_xy: tuple[int, int], *, size: int = 15, colour: Colour = INK_BGR) -> None:
    cv2.putText(picture, words, at_xy, colour, _FONT, size, 400)

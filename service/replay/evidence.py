"""One part under several judgements, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from schemas.messages import Box
from service.evaluation.pictures import PAPER_BGR, draw_boxes
from service.pipeline.resize import resized
from service.pipeline.types import BgrImage

LONGEST_PX = 420


def side_by_side(bgr: BgrImage, judgements: Sequence[Sequence[Box]]) -> bytes:
    """Return a JPEG file: the frame once a judgement, from left to right, each with its boxes."""
    height, width = bgr.shape[:2]
    scale = min(1.0, LONGEST_PX / max(height, width))
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = resized(bgr, size_wh)
    gap = np.full((size_wh[1], 6, 3), PAPER_BGR, np.uint8)
    row = [picture for boxes in judgements for picture in (gap, _boxed(small, boxes, scale))]
    return cv2.imencode(".jpg", np.hstack(row[1:]), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def _boxed(small: BgrImage, boxes: Sequence[Box], scale: float) -> BgrImage:
    corners = np.array([box.xyxy for box in boxes], np.float64).reshape(-1, 4) * scale
    return draw_boxes(small, corners.round().astype(np.int32), [box.score for box in boxes])

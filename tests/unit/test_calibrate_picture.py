"""The picture of a calibration."""

from __future__ import annotations

import numpy as np
import pytest

from service.evaluation.pictures import DAMAGED_BGR, OK_BGR
from service.evaluation.threshold_picture import HEIGHT, WIDTH, threshold_picture
from service.model.sweep import operating_point


@pytest.mark.parametrize(
    ("ok", "damaged", "tau"),
    [
        ([0.1, 0.2, 0.21], [0.5, 0.9], 0.4),
        ([0.1, 0.2], [], 5.0),
        ([0.3], [0.3], 0.3),
        ([0.0], [], 0.0),
    ],
)
def test_picture_shows_what_there_is(ok: list[float], damaged: list[float], tau: float) -> None:
    """Curves of OK frames, and of damaged ones only where there are any; equal scores and far thresholds fit."""
    picture = threshold_picture("bars@1", ok, damaged, operating_point(tau, ok, damaged))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    curves = picture[455:765]
    assert np.all(curves == OK_BGR, axis=2).sum() > 100 or ok == damaged
    assert bool(np.all(curves == DAMAGED_BGR, axis=2).any()) == bool(damaged)

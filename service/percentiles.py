"""Percentiles of what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile, interpolated linearly; None of nothing."""
    return float(np.percentile(values, percent)) if values else None

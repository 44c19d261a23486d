"""Prometheus metrics that the adapters share."""

from __future__ import annotations

from prometheus_client import Counter

REFUSED = Counter("cangate_refused", "Inputs that were refused, by transport and reason.", ["transport", "reason"])

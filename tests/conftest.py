"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Examples are limited by their number: on a busy machine a time limit would fail a test that has nothing wrong.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")

"""`cangate selftest --only`: what it refuses before anything is trained or started."""

from __future__ import annotations

import pytest

from tests.support.cli import CommandLine


def test_each_word_that_no_drill_has_is_refused(cangate: CommandLine) -> None:
    """Beside one that fits, a mistyped word would be passed over, and its drill believed to be played."""
    refusal = cangate("selftest", "--only", "journal", "--only", "jurnal").one_line_error()
    assert "no drill has 'jurnal' in its name; there are: " in refusal


def test_drills_that_all_need_mosquitto_are_refused_without_it(
    cangate: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was played, and nothing can be said of it."""
    monkeypatch.setattr("service.cli.selftest.find_mosquitto", lambda: None)
    refusal = cangate("selftest", "--only", "broker").one_line_error()
    assert refusal.endswith("nothing to play: mosquitto is not installed")

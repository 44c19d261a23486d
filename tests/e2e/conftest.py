"""What tests of whole processes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.parts import small_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one small model, active."""
    return small_store(tmp_path_factory.mktemp("plant"))

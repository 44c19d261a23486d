"""The databases that a journal may lie in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.settings import JournalSettings
from tests.support.postgresql import PostgresqlServer

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JournalSettings]:
    """Settings of a journal in a database that is empty."""
    if request.param == "sqlite":
        yield JournalSettings(url=f"sqlite:///{tmp_path / 'sub' / 'journal.sqlite'}")
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        with server.database() as name:
            yield JournalSettings(url=server.url(name), folder=tmp_path)

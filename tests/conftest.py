"""What holds for every test."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support.postgresql import PostgresqlServer, private_postgresql

if TYPE_CHECKING:
    from service.model.training import TrainedModel

# Processes that work side by side share the cores, and each would have torch wait for the threads of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a test starts may keep its bytecode: to compile the service anew takes a second of each start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_TESTS = Path(__file__).parent
_TIERS = {"e2e": 0, "contract": 1, "integration": 2, "golden": 3, "unit": 4}

# Examples are limited by their number: on a busy machine a time limit would fail a test that has nothing wrong.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")

# An address space of an OPC UA server is half a million objects, and a test makes a few: looking through them again and
# again, as the interpreter's own thresholds have it, took a third of what these tests need of the processor.
gc.set_threshold(20_000, 10, 10)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # the tests were started in the background of a shell, and processes of theirs would not hear Ctrl-C, either
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # below nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: files that start whole processes at the end would leave the other workers idle."""
    items.sort(key=lambda item: _TIERS.get(item.path.relative_to(_TESTS).parts[0], 0))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server for the whole run, each test a database of its own; a test that kills it starts it again."""
    with private_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A small model, for tests that keep, move and read models."""
    # torch takes seconds that most tests need not spend
    from tests.support.parts import train_parts, write_parts  # noqa: PLC0415

    return train_parts(write_parts(tmp_path_factory.mktemp("frames"), 5))


@pytest.fixture(autouse=True)
def _logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command that runs in this process does to logging ends with its test."""
    before, configure = structlog.get_config(), structlog.configure
    handlers, level, hook = logging.root.handlers[:], logging.root.level, sys.excepthook
    # a logger that was kept by its module would go on as it was configured when it was first used
    monkeypatch.setattr(structlog, "configure", partial(_configure, configure))
    yield
    if structlog.get_config() != before:
        configure(**before)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        logging.captureWarnings(capture=False)
        sys.excepthook = hook


def _configure(configure: Callable[..., None], **settings: object) -> None:
    configure(**settings | {"cache_logger_on_first_use": False})

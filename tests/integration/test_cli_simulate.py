"""What `cangate simulate` refuses, and what it says without a broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.simulation.broker import free_port
from adapters.simulation.line import PicturePool
from service.cli import simulate
from tests.support.cli import CommandLine


@pytest.mark.parametrize("number", ["inf", "nan", "1e300"])
@pytest.mark.parametrize(
    "option", ["rate", "jitter", "bursts", "stops", "damaged", "wrong", "missing", "speed", "gate"]
)
def test_what_is_no_number_is_refused(cangate: CommandLine, option: str, number: str) -> None:
    """In one line that names the option, before anything is rendered."""
    assert f"--{option}" in cangate("simulate", f"--{option}", number).one_line_error()


def test_gate_that_no_part_reaches_is_refused(cangate: CommandLine) -> None:
    """Within the longest deadline that an event can ask for."""
    refused = cangate("simulate", "--gate", "3601", "--speed", "1").one_line_error()
    assert refused == "cangate: --gate 3601 at --speed 1 is not within 3600 s"


@pytest.mark.parametrize(
    "size", ["99999999x160", "160x8193", "159x160", "640", "-640x480", "1e3x480", "\u0666\u0664\u0660x480"]
)
def test_frames_of_a_size_that_nobody_waits_for_are_refused(cangate: CommandLine, size: str) -> None:
    """The smallest and the largest are named."""
    refused = cangate("simulate", "--size", size).one_line_error()
    assert refused.endswith("is no WIDTHxHEIGHT of 160 to 8192 pixels each")


def test_broker_that_is_not_there_is_named(
    cangate: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host and port as they are configured, exit status 1."""
    pool = PicturePool(good=[b"good"], damaged=[b"damaged"], blank=b"blank")
    monkeypatch.setattr(simulate, "PicturePool", _Rendered(pool))
    port = free_port()
    config = tmp_path / "line.toml"
    config.write_text(f"[mqtt]\nport = {port}\n")
    done = cangate("simulate", "-c", config, "--station", "line1", "--station", "line2")
    assert (done.status, done.stderr) == (1, f"cangate: mqtt: 127.0.0.1:{port}: Connection refused\n")


class _Rendered:
    """Has the pictures at once."""

    def __init__(self, pool: PicturePool) -> None:
        self._pool = pool

    def render(self, *_: object) -> PicturePool:
        return self._pool

"""Work in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from service.errors import EvaluationFailed, PackageRefused
from service.evaluation.fresh_process import in_fresh_process, peak_memory_bytes
from tests.support import work

MIB = 1 << 20


def ignore(_stage: str, _done: int, _total: int) -> None:
    pass


def test_fresh_process_returns_the_result_and_tells_progress() -> None:
    """It is another process, and every step arrives in order."""
    told: list[tuple[str, int, int]] = []
    result, pid = in_fresh_process("counter", partial(work.count_to, 3), lambda *step: told.append(step))
    assert result == 3
    assert pid != os.getpid()
    assert told == [("counting", done, 3) for done in (1, 2, 3)]


def test_fresh_process_passes_on_an_error_of_ours() -> None:
    """A refusal stays a refusal."""
    with pytest.raises(PackageRefused, match=r"^model bars@1: golden frame is no picture$"):
        in_fresh_process("bars@1", work.refuse, ignore)


@pytest.mark.parametrize(
    ("job", "told"),
    [
        (work.divide, "bars@1: ZeroDivisionError: division by zero"),
        (work.be_killed, "bars@1: its process died, killed by SIGKILL, perhaps for want of memory"),
        (work.leave, "bars@1: its process died with exit status 3"),
    ],
)
def test_fresh_process_that_fails_is_one_line(
    job: Callable[[object], object], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whose it was and why, and no traceback from the other side."""
    with pytest.raises(EvaluationFailed) as failed:
        in_fresh_process("bars@1", job, ignore)
    assert str(failed.value) == told
    assert capfd.readouterr().err == ""


def test_fresh_process_ends_with_whoever_waits_for_it(tmp_path: Path) -> None:
    """An interrupt here leaves no process behind, though it would go on for ever."""

    def interrupt(_stage: str, _done: int, _total: int) -> None:
        raise KeyboardInterrupt

    pid_file = tmp_path / "pid"
    with pytest.raises(KeyboardInterrupt):
        in_fresh_process("endless", partial(work.go_on, pid_file), interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process apart from its parent's")
def test_peak_memory_is_that_of_the_process_alone() -> None:
    """What its parent once took does not count, what it took itself does, though it gave it back."""
    block = os.urandom(1) * (300 * MIB)
    here = peak_memory_bytes()
    del block
    before, after = in_fresh_process("taker", partial(work.take_memory, 100 * MIB), ignore)
    assert here is not None
    assert before is not None
    assert after is not None
    assert here > 300 * MIB
    assert before < 200 * MIB
    assert after - before == pytest.approx(100 * MIB, rel=0.1)

"""Runs a piece of work in a process of its own, so that neither memory nor caches are shared with anything else."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from service.errors import CangateError, EvaluationFailed
from service.pipeline.types import StageProgress

Result = TypeVar("Result")
Work = Callable[[StageProgress], Result]

_PROC_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class _Progress:
    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class _Done(Generic[Result]):
    result: Result


def in_fresh_process(name: str, work: Work[Result], progress: StageProgress) -> Result:
    """Return what `work` returns in a new Python process; `work` and its result travel by pickle.

    The process ends with this call, whatever ends it; Ctrl-C reaches this process only.

    Raises:
        CangateError: as raised by `work`.
        EvaluationFailed: another error ended the work, or the process died; `name` says whose.
    """
    receiver, sender = get_context("spawn").Pipe(duplex=False)
    process = get_context("spawn").Process(target=_serve, args=(name, work, sender), name=name, daemon=True)
    with receiver:
        try:
            with sender, _interrupts_later():
                process.start()
            result: Result = _await_result(receiver, progress)
        except EOFError:
            process.join()
            raise EvaluationFailed(f"{name}: its process died{_cause(process)}") from None
        else:
            return result
        finally:
            if process.pid is not None:
                process.kill()  # nothing to do where it has ended; it has nothing to clean up
                process.join()
                process.close()


def peak_memory_bytes() -> int | None:
    """Return the most memory this process has had resident; None where the system does not say.

    Not `ru_maxrss`: Linux carries it over exec, so a started process begins with the peak of its parent.
    """
    try:
        lines = _PROC_STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def _serve(name: str, work: Work[Any], sender: Connection) -> None:
    """Do the work, on the other side; where nobody listens any more, end."""
    with contextlib.suppress(BrokenPipeError), sender:
        try:
            result = work(lambda stage, done, total: sender.send(_Progress(stage, done, total)))
        except BrokenPipeError:
            raise
        except CangateError as exc:
            sender.send(exc)
        except Exception as exc:  # noqa: BLE001 - the boundary of a process: it is the other side that tells a person
            sender.send(EvaluationFailed(f"{name}: {type(exc).__name__}: {exc}"))
        else:
            sender.send(_Done(result))


def _await_result(receiver: Connection, progress: StageProgress) -> Any:  # noqa: ANN401 - a pipe has no types
    while True:
        match receiver.recv():
            case _Progress(stage, done, total):
                progress(stage, done, total)
            case _Done(result):
                return result
            case error:
                raise error


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Put Ctrl-C off until the block ends, and keep it for ever from what is started meanwhile.

    It goes to every process of a terminal, but only this one is to answer it. A started process inherits the mask of
    the thread that starts it; the other threads of this process may still be given the signal, hence the handler.
    """
    resource_tracker.ensure_running()  # it unblocks SIGINT when it starts, so it must not start in between
    if threading.current_thread() is not threading.main_thread():
        yield  # Python interrupts the main thread only
        return
    pressed: list[int] = []
    answer = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, answer)
    if pressed:
        signal.raise_signal(signal.SIGINT)


def _cause(process: BaseProcess) -> str:
    if process.exitcode is None or process.exitcode >= 0:
        return f" with exit status {process.exitcode}"
    name = signal.Signals(-process.exitcode).name
    return f", killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")

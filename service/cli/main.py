"""The command `cangate`."""

from __future__ import annotations

import io
import logging
import os
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from schemas.settings import LogSettings
from service.cli.common import console, error_console
from service.cli.ending import INTERRUPTED, Ending, terminated_like_interrupted
from service.errors import CangateError, UsageError
from service.text import without_controls

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_COMMANDS = {
    "run": "Run the inspection service.",
    "demo": "Run a whole line on this machine: camera, broker, inspection, PLC with its gate, page.",
    "simulate": "Show parts to running services as a line does: rates, bursts, stops, encoder, wrong frames, gates.",
    "train": "Learn what good parts look like: a folder of frames in, the next version of a model out.",
    "calibrate": "Set the threshold of a model for a wanted false-reject rate, recall or precision: its next version.",
    "evaluate": "Measure a model on folders of frames: accuracy, escapes, over-rejects, as a report.",
    "inspect": "Judge pictures with a model: table, CSV, JSON, pictures.",
    "record": "Record a running line from outside: its events, frames and verdicts, over MQTT.",
    "replay": "Play a recorded session through a running service, or straight through a model.",
    "compare": "Judge a recorded session with several models: agreement, escapes, over-rejects, cost.",
    "sessions": "List, look at, import and export recorded sessions.",
    "pretrain": "Train the backbone of the starter embedder on photos and made-up surfaces.",
    "models": "List, show, verify, activate, roll back, extend, export and import models.",
    "benchmark": "Tell whether this computer keeps up with the line: time of each stage, parts a second.",
    "selftest": "Break a line on this machine on purpose and see whether the promise is kept.",
    "config": "Check or show the configuration; add users of the OPC UA server and the page.",
    "certs": "Certificates for MQTT over TLS and OPC UA from an authority of the plant's own.",
    "export": "Write what integrators load into their own tools.",
}


_ENDLESS = ("run", "demo", "simulate", "record")
"""Commands that run until they are told to stop, and so does `replay --loop`."""


class _LazyGroup(TyperGroup):
    """Imports a command when it is called: torch, asyncua and NiceGUI take seconds that `--help` need not spend."""

    # Any: typer keeps the types of its contexts and commands to itself
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - as above
        if args and args[0] in _COMMANDS:
            self.commands[args[0]] = _imported(args[0])
            _log_warnings()
            if args[0] in _ENDLESS or (args[0] == "replay" and "--loop" in args):
                _end_with_reader()
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as above
        try:
            return super().invoke(ctx)
        except (EOFError, typer.Abort) as exc:  # at a question typer makes an interrupt of both Ctrl-C and an end
            if isinstance(exc, EOFError) or isinstance(exc.__context__, EOFError):
                raise CangateError("a file or the standard input ends too early") from exc
            raise


def _imported(name: str) -> Any:  # noqa: ANN401 - as above
    module = import_module(f"service.cli.{name}")
    if hasattr(module, "app"):
        return typer.main.get_command(module.app)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(getattr(module, name))
    return typer.main.get_command(alone)


def _log_warnings() -> None:
    """Send what is logged to standard error, until the command says otherwise: standard output is for results."""
    # a while that `--help` need not spend
    from service.logs import LONGEST_SILENCE_S, configure_logging  # noqa: PLC0415

    configure_logging(LogSettings(level="warning"), held_s=LONGEST_SILENCE_S)


def _forget_warnings() -> None:
    """Forget what a command was warned of before it was refused, which has one line to say."""
    from service.logs import StandardError  # noqa: PLC0415 - as above

    for handler in logging.getLogger().handlers:
        if isinstance(handler, StandardError):
            handler.forget_held()


app = typer.Typer(
    cls=_LazyGroup,
    help="Inspects metal canisters on a line: image-ready events in, OK / Damaged verdicts out, over MQTT and OPC UA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _listed() -> None:
    """Stand in the list of commands until the real one is imported."""


for _name, _help in _COMMANDS.items():
    app.command(_name, help=_help)(_listed)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"cangate {version('cangate')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


class _StandardOutput(io.FileIO):
    """Takes what is printed. Once nobody reads it any more it is lost, and what a command has begun is finished.

    But for a command without an end, which nobody would see run on.
    """

    ends_with_reader = False

    def write(self, printed: ReadableBuffer, /) -> int:
        """Write some of the bytes and return how many. Raises CangateError where they cannot be written."""
        try:
            return super().write(printed)
        except OSError as exc:
            # also for what is buffered: the interpreter flushes it at its end
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            if not isinstance(exc, BrokenPipeError):
                raise CangateError(f"cannot write to standard output: {exc.strerror}") from exc
            if self.ends_with_reader:
                raise  # rich exits with status 1
            return memoryview(printed).nbytes


def _open_standard_output() -> None:
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    elif isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout is sys.__stdout__:
            raw = _StandardOutput(sys.stdout.fileno(), "wb", closefd=False)
            sys.stdout = io.TextIOWrapper(
                io.BufferedWriter(raw), encoding=sys.stdout.encoding, line_buffering=sys.stdout.line_buffering
            )
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may be anything


def _end_with_reader() -> None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _StandardOutput):
        raw.ends_with_reader = True


def main() -> None:
    """Run the command line; the exit status is in `_run`."""
    _open_standard_output()
    with terminated_like_interrupted() as ending:
        status = _run(ending)
    sys.exit(status)


def _run(ending: Ending) -> int:
    """Return 0 done, 1 failed, 2 unusable arguments or configuration, 130 interrupted, 143 terminated, 129 hung up.

    What is not 0 because something is wrong is told in one line.
    """
    try:
        status: int = app(prog_name="cangate", standalone_mode=False) or 0
        if status == INTERRUPTED:  # typer keeps the KeyboardInterrupt to itself
            raise KeyboardInterrupt  # noqa: TRY301 - as if it had not
        sys.stdout.flush()
    except typer.TyperException as exc:
        # the bare command prints its help this way
        _forget_warnings()
        _complain(exc.format_message() or "name one of the commands above")
        return 2
    except UsageError as exc:
        _forget_warnings()
        _complain(str(exc))
        return 2
    except CangateError as exc:
        _complain(str(exc))
        return 1
    except (KeyboardInterrupt, typer.Abort):
        _complain(ending.word)
        return ending.status
    return status


def _complain(message: str) -> None:
    for handler in logging.getLogger().handlers:  # what was logged comes before the line that ends it
        handler.flush()
    error_console.print(f"cangate: {without_controls(' '.join(message.split()))}", style="red", markup=False)

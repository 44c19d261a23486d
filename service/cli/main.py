"""The command `cangate`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from service.cli import config, demo, export, inspect, models, run, train
from service.cli.common import console, errors
from service.errors import CangateError, UsageError

app = typer.Typer(
    help="Inspects metal canisters on a line: image-ready events in, OK / Damaged verdicts out, over MQTT and OPC UA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run.run)
app.command()(demo.demo)
app.command()(train.train)
app.command()(inspect.inspect)
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")
app.add_typer(export.app, name="export")


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


def main() -> None:
    """Run the command line: exit status 0 done, 1 failed, 2 unusable arguments or configuration (one line says why)."""
    try:
        status = app(prog_name="cangate", standalone_mode=False)
    except typer.TyperException as exc:
        # the bare command prints its help this way; everything else is one line
        message = exc.format_message()
        if message:
            _complain(message)
        status = 2
    except UsageError as exc:
        _complain(str(exc))
        status = 2
    except CangateError as exc:
        _complain(str(exc))
        status = 1
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        status = 130
    sys.exit(status)


def _complain(message: str) -> None:
    errors.print(f"cangate: {' '.join(message.split())}", style="red", markup=False)

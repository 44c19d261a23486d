"""`cangate config`: look at settings, check them, add users."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import argon2
import tomli_w
import typer

from adapters.accounts import Role, enter_user
from adapters.secret_files import read_password, reason
from service.cli.common import ConfigOption, ConfigsOption, console, error_console, load_settings, load_stations
from service.errors import UsageError
from service.files import unwritable

app = typer.Typer(
    help="Check or show the configuration; add users of the OPC UA server and the page.",
    no_args_is_help=True,
    add_completion=False,
)

_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")


@app.command()
def check(
    config: ConfigsOption = None,
) -> None:
    """Check the configuration and what it names: files, folders, certificates, users, model. Nothing is written.

    Exit status 0 where a start would go well, with a line for each thing that the station will not work without; else 2
    and one line that names the key. Whether ports are free and brokers answer is seen at the start.
    Several files are stations of one process, as `cangate run` takes them: none may want what another has for itself.

    Example: cangate config check -c config.toml
    """
    stations = load_stations(config)
    # seconds that a mistake must not wait for
    from service.cli.preflight import look_at_all  # noqa: PLC0415

    notes = list(look_at_all(stations))
    for note in notes:
        error_console.print(f"cangate: {note}", markup=False)
    console.print("configuration is usable" + (", but see above" if notes else ""))


@app.command()
def show(config: ConfigOption = None) -> None:
    """Print the effective configuration as TOML: defaults, file and environment joined; secrets are masked."""
    settings = load_settings(config)
    console.out(tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)), end="")


@app.command()
def add_user(
    file: Annotated[Path, typer.Argument(help="users_file to add to; made where it does not exist.")],
    name: Annotated[str, typer.Argument(help="User name.")],
    role: Annotated[
        Role | None, typer.Option(help="What the user may do.", show_default="the user's own; of a new one operator")
    ] = None,
    password: Annotated[
        str, typer.Option(help="Asked for where not given; other users of this machine see what is given here.")
    ] = "",
    password_file: Annotated[
        Path | None, typer.Option(help="File that holds the password.", exists=True, dir_okay=False)
    ] = None,
) -> None:
    """Add a user to a users_file, or give one a new password: one line `name:role:argon2-hash`.

    A user who is there keeps the role unless --role names another.

    Example: cangate config add-user users.txt plc --role plc
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"user name {name!r} must be 1 to 64 letters, digits or _.@-")
    if password_file is not None:
        password = read_password("--password-file", password_file)
    if not password:
        if not sys.stdin.isatty():
            raise UsageError("no terminal to ask for the password on: give --password-file")
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    try:
        now, before = enter_user(file, name, argon2.PasswordHasher().hash(password), role)
    except UnicodeDecodeError as exc:
        raise UsageError(f"{file}: {reason(exc)}") from exc
    except OSError as exc:
        raise unwritable(file, exc) from exc
    changed = "" if before is None else ", as before" if before is now else f", no longer as {before}"
    console.print(f"{name} may now log in as {now}{changed}")

"""`cangate config`: look at settings, check them, add users."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import argon2
import tomli_w
import typer

from adapters.accounts import Role
from adapters.secret_files import read_password, reason, write_private
from service.cli.common import ConfigOption, ConfigsOption, console, error_console, load_settings, load_stations
from service.errors import UsageError

app = typer.Typer(
    help="Check or show the configuration; add users of the OPC UA server and the page.", no_args_is_help=True
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
    role: Annotated[Role, typer.Option(help="What the user may do.")] = Role.OPERATOR,
    password: Annotated[
        str, typer.Option(help="Asked for where not given; other users of this machine see what is given here.")
    ] = "",
    password_file: Annotated[
        Path | None, typer.Option(help="File that holds the password.", exists=True, dir_okay=False)
    ] = None,
) -> None:
    """Add a user to a users_file, or give one a new password: one line `name:role:argon2-hash`.

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
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        kept = [line for line in lines if not line.startswith(f"{name}:")]
        line = f"{name}:{role}:{argon2.PasswordHasher().hash(password)}"
        # complete or not at all: a service that runs reads it at the next login
        write_private(file, "".join(f"{each}\n" for each in (*kept, line)).encode())
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{file}: {reason(exc)}") from exc
    console.print(f"{name} may now log in as {role}")

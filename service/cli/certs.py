"""`cangate certs`: a certificate authority of the plant's own."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from adapters.pki import PlantAuthority
from schemas.tags import NAMESPACE_URI
from service.cli.common import console, error_console, say
from service.cli.tables import result_table

app = typer.Typer(
    help="Certificates for MQTT over TLS and OPC UA from an authority of the plant's own.",
    no_args_is_help=True,
    add_completion=False,
)

Folder = Annotated[Path, typer.Argument(help="Folder of the authority. Its ca.key belongs on one machine only.")]
Days = Annotated[int, typer.Option(min=1, max=36_500, help="How long it is valid.")]


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="What the authority is called in its certificate.")] = "cangate plant CA",
    days: Days = 7300,
) -> None:
    """Make an authority: ca.pem (whom to trust), ca.key (signs; keep it), crl.pem (what was revoked: nothing yet).

    Example: cangate certs init pki
    """
    PlantAuthority.create(folder, name=name, days=days)
    say(str(folder / "ca.pem"))
    say(str(folder / "crl.pem"))


@app.command()
def issue(
    folder: Folder,
    names: Annotated[list[str], typer.Argument(help="Of the applications: broker, cangate, plc, camera1 ...")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address under which a server is reached; repeat for more. Clients need none."),
    ] = None,
    uri: Annotated[str, typer.Option(help="OPC UA application URI; without it urn:cangate:NAME.")] = "",
    days: Days = 1825,
) -> None:
    """Issue NAME.pem with its key NAME.key (0600). The service's own certificate is the one called cangate.

    Example: cangate certs issue pki broker --host broker.plant --host 10.0.7.5
    """
    authority = PlantAuthority.load(folder)
    for name in names:
        application = uri or (NAMESPACE_URI if name == "cangate" else f"{NAMESPACE_URI}:{name}")
        path = authority.issue(name, hosts=host or (), uri=application, days=days)
        say(str(path))


@app.command()
def revoke(
    folder: Folder, name: Annotated[str, typer.Argument(help="Whose certificate is no longer to be trusted.")]
) -> None:
    """Put NAME.pem on the revocation list and delete its key; copy crl.pem to where it is read, reload the broker.

    Example: cangate certs revoke pki camera1
    """
    path = PlantAuthority.load(folder).revoke(name)
    say(str(path))


@app.command(name="list")
def list_(folder: Folder) -> None:
    """List the certificates of a folder: until when they are valid, and what was revoked.

    Where a file is none the others are listed, and the exit status is 1.
    """
    table = result_table("name", "valid until", "days left", "state")
    now = datetime.now(UTC)
    found, unreadable = PlantAuthority.load(folder).issued()
    for issued in found:
        until = issued.certificate.not_valid_after_utc
        state = "revoked" if issued.revoked else "expired" if until < now else "valid"
        table.add_row(issued.name, f"{until:%Y-%m-%d}", str((until - now).days), state)
    console.print(table)
    for problem in unreadable:
        error_console.print(problem, markup=False)
    if unreadable:
        raise typer.Exit(1)

"""What `cangate export` writes, where, and where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapters.hmi.api import build_api
from adapters.telemetry import Metrics
from service.cli.reference import HTTP, render_reference
from tests.support.cli import CommandLine

OF_A_CONFIGURATION = ["asyncapi", "opcua-tags", "opcua-nodeset"]


@pytest.fixture
def package(store: Path) -> Path:
    """The folder of a model."""
    return next(path.parent for path in store.rglob("model.json"))


def names(folder: Path) -> list[str]:
    """Return what lies below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which "$@" is `cangate ARGUMENTS`."""
    words = ("bash", "-c", line, "bash", sys.executable, "-m", "service.cli", *map(str, arguments))
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("what", OF_A_CONFIGURATION)
@pytest.mark.parametrize("named", ["line.toml", "./sub/../line.toml", "link.toml"])
def test_export_does_not_take_the_place_of_its_configuration(
    cangate: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, named: str
) -> None:
    """By whatever name: nothing else holds what it says."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    config = tmp_path / "line.toml"
    config.write_text("[station]\nid = 'line7'\n")
    (tmp_path / "link.toml").symlink_to(config)
    refused = cangate("export", what, "-c", config, "-o", named)
    assert refused.one_line_error() == f"cangate: cannot write {Path(named)}: it is the configuration file"
    assert config.read_text() == "[station]\nid = 'line7'\n"


@pytest.mark.parametrize("what", ["reference", *OF_A_CONFIGURATION])
def test_export_does_not_write_into_a_model_package(cangate: CommandLine, package: Path, what: str) -> None:
    """One file more, and it is none."""
    before = names(package)
    assert "the model package" in cangate("export", what, "-o", package / "mine").one_line_error()
    assert names(package) == before


@pytest.mark.parametrize("out", ["", "x", "x/y"])
def test_schemas_are_not_written_into_a_model_package(cangate: CommandLine, package: Path, out: str) -> None:
    """Nor is a folder made there."""
    before = names(package)
    assert "the model package" in cangate("export", "json-schema", "-o", package / out).one_line_error()
    assert names(package) == before


def test_export_to_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """A file is written whole or not at all."""
    out = tmp_path / "reference.md"
    out.write_text("an earlier one")
    # bytecode is not: Python would keep the half that has room, and find it at the next start
    done = shell('ulimit -f 1; PYTHONDONTWRITEBYTECODE=1 "$@"', "export", "reference", "-o", out)
    assert (done.returncode, done.stderr) == (2, f"cangate: cannot write {out}: File too large\n")
    assert (names(tmp_path), out.read_text()) == (["reference.md"], "an earlier one")


def test_export_into_a_folder_that_is_not_there_is_refused(cangate: CommandLine, tmp_path: Path) -> None:
    """The folder is named with the file."""
    out = tmp_path / "nowhere" / "tags.csv"
    refused = cangate("export", "opcua-tags", "-o", out)
    assert refused.one_line_error() == f"cangate: cannot write {out}: No such file or directory"


def test_export_can_be_read_from_a_pipe() -> None:
    """What is no regular file is written into."""
    done = shell('"$@" | cat', "export", "opcua-tags", "-o", "/dev/stdout")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tag,node_id,browse_path,data_type,array,access,meaning\n")


def test_schemas_are_written_for_every_message(cangate: CommandLine, tmp_path: Path) -> None:
    """One schema a message, each naming itself."""
    assert cangate("export", "json-schema", "-o", tmp_path / "out").status == 0
    messages = ("image-ready", "verdict", "gate", "status", "command", "reply")
    assert names(tmp_path / "out") == sorted(f"{message}.schema.json" for message in messages)
    schema = json.loads((tmp_path / "out" / "verdict.schema.json").read_text())
    assert schema["properties"]["schema"]["const"] == "cangate/verdict/1"


def test_reference_in_the_documents_is_up_to_date() -> None:
    """docs/interface.md is what `cangate export reference` writes."""
    assert (Path(__file__).parents[2] / "docs" / "interface.md").read_text() == render_reference()


def test_reference_has_every_address() -> None:
    """What the API answers is what integrators read of."""
    nothing: Any = None
    api = build_api(bridge=nothing, pictures=nothing, metrics=Metrics(), version="0")
    assert set(api.openapi()["paths"]) == {address.partition("?")[0] for address in HTTP} - {"/", "/history"}

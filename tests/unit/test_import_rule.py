"""schemas <- service <- adapters: who may import whom, read from the source."""

from __future__ import annotations

import ast
import functools
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"schemas", "service", "adapters"}

TRANSPORTS = {"paho", "asyncua", "amqtt", "sqlite3", "sqlalchemy", "nicegui", "fastapi", "uvicorn", "httpx"}
PIPELINE_MAY = {"schemas", "service.pipeline", "service.errors"}
PIPELINE_MAY |= {"numpy", "cv2", "torch", "timm", "safetensors", "segment_anything"}
LAYERS = ["pipeline", "model", "evaluation", "replay"]


@functools.cache
def imports_of(path: Path) -> set[str]:
    """Return every module that the file at `path` imports, wherever in the file, and each name that it takes of one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def is_within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def standard(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] in sys.stdlib_module_names


@pytest.mark.parametrize("path", files("schemas"), ids=str)
def test_schemas_import_nothing_of_ours(path: Path) -> None:
    """The shared words stand on their own."""
    assert not [module for module in imports_of(path) if is_within(module, {"service", "adapters"})]


@pytest.mark.parametrize("path", files("service"), ids=str)
def test_service_knows_no_transport(path: Path) -> None:
    """Only the composition root and the commands may see adapters, and nobody here a transport's library."""
    composes = path.name == "bootstrap.py" or path.parent.name == "cli"
    forbidden = TRANSPORTS if composes else TRANSPORTS | {"adapters"}
    assert not [module for module in imports_of(path) if is_within(module, forbidden)]


@pytest.mark.parametrize("path", files("service/pipeline"), ids=str)
def test_pipeline_is_frames_in_inspections_out(path: Path) -> None:
    """The pipeline imports schemas and the libraries of its trade: no asyncio, no I/O."""
    foreign = [m for m in imports_of(path) if not is_within(m, PIPELINE_MAY) and not standard(m)]
    assert not foreign
    assert not is_within("asyncio", imports_of(path))


@pytest.mark.parametrize("place", range(len(LAYERS)), ids=LAYERS)
def test_packages_of_the_service_import_downwards(place: int) -> None:
    """No two of them import each other."""
    above = {f"service.{layer}" for layer in LAYERS[place + 1 :]}
    found = {(path.name, module) for path in files(f"service/{LAYERS[place]}") for module in imports_of(path)}
    assert not [(name, module) for name, module in found if is_within(module, above)]


@pytest.mark.parametrize("path", files("adapters"), ids=str)
def test_adapters_do_not_import_the_composition_root(path: Path) -> None:
    """Adapters are composed, they do not compose."""
    assert not [module for module in imports_of(path) if is_within(module, {"service.bootstrap", "service.cli"})]


@pytest.mark.parametrize(("side", "other"), [("client", "server"), ("server", "client")])
def test_sides_of_opcua_do_not_know_each_other(side: str, other: str) -> None:
    """What both need lies above them."""
    found = {(path.name, module) for path in files(f"adapters/opcua/{side}") for module in imports_of(path)}
    assert not [(name, module) for name, module in found if is_within(module, {f"adapters.opcua.{other}"})]


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Nor for their types: who reads one must not have to read all."""
    paths = {_module(path): path for folder in sorted(OURS) for path in files(folder)}
    graph = {
        name: {full if full in paths else full.rpartition(".")[0] for full in imports_of(path)} & paths.keys()
        for name, path in paths.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

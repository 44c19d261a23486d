"""Names of formats and schemas: who reads `cangate/x/1` knows which fields come, so no two documents share one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_DEFINED = re.compile(r'Literal\["(cangate/[a-z-]+/[0-9]+)"\]')
_NAMED = re.compile(r'"(cangate/[a-z-]+/[0-9]+)"')
_STANDS_IN_FOR_A_CAMERA = Path("adapters/drill/plant.py")


def names(pattern: re.Pattern[str]) -> Iterator[tuple[str, Path]]:
    """Yield every name that the sources write so, and where."""
    for folder in ("schemas", "service", "adapters"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in pattern.findall(path.read_text(encoding="utf-8")):
                yield name, path.relative_to(ROOT)


def test_format_is_that_of_one_document() -> None:
    """A class says which one it is in a field of that only value; no other class says the same."""
    defined = [name for name, _ in names(_DEFINED)]
    assert sorted(set(defined)) == sorted(defined)
    assert "cangate/session-comparison/1" in defined


def test_format_is_named_where_it_is_defined_alone() -> None:
    """Elsewhere it would be a document that no class describes."""
    places = defaultdict(set)
    for name, path in names(_NAMED):
        if path != _STANDS_IN_FOR_A_CAMERA:
            places[name].add(path)
    assert {name: {path} for name, path in names(_DEFINED)} == places

"""Runs the scripts of tests/contract/node: clients and validators that share no code with the service."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[1] / "contract" / "node"
NODE = shutil.which("node")


def needs_node(*packages: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a test that runs a script which needs `packages`."""
    missing = [name for name in packages if not (SCRIPTS / "node_modules" / name).is_dir()]
    return [
        pytest.mark.node,
        pytest.mark.skipif(NODE is None, reason="node is not installed"),
        pytest.mark.skipif(
            bool(missing), reason=f"not installed: {', '.join(missing)} (npm install --prefix tests/contract/node)"
        ),
    ]


async def node(script: str, *arguments: str) -> Any:
    """Run a script of tests/contract/node and return the JSON it prints."""
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        NODE, str(SCRIPTS / script), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        printed, complaints = await asyncio.wait_for(process.communicate(), 110)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = printed.decode().strip().splitlines()
    assert lines, complaints.decode()
    return json.loads(lines[-1])

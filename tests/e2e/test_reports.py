"""Reports in a real browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import Browser

from service.model.registry import ModelRegistry
from tests.support.page import PAGE_MARKS, cut_off
from tests.support.parts import train_parts, write_parts
from tests.support.recordings import drawn_part, write_session
from tests.support.service import run

pytestmark = [pytest.mark.e2e, *PAGE_MARKS]


async def test_reports_fit_screen_and_phone(browser: Browser, tmp_path: Path) -> None:
    """On a screen every table is seen whole; a phone scrolls tables, never the page, and breaks no word of a rule."""
    ok, damaged = (write_parts(tmp_path / name, 6, damaged=name == "damaged") for name in ("ok", "damaged"))
    registry, trained = ModelRegistry(tmp_path / "models"), train_parts(ok)
    for factor in (1, 1.5, 2):
        changes = {"name": "canister-500ml-matt", "tau": factor * trained.manifest.tau}
        replace(trained, manifest=trained.manifest.model_copy(update=changes)).publish(registry)
    first, *others = (f"canister-500ml-matt@{version}" for version in (1, 2, 3))
    session = write_session(tmp_path / "s", [drawn_part(number, damaged=number % 2 == 0) for number in range(6)])
    (tmp_path / "c.toml").write_text("[acceptance]\nparts_min = 7\n")
    judge = ("--speed", "max", "--expect", "labels", "--model", first, "-c", tmp_path / "c.toml")
    commands = [
        ("evaluate", first, "--ok", ok, "--damaged", damaged),
        ("replay", session, *judge),
        ("compare", session, first, *others),
    ]
    for command_line in commands:
        report = tmp_path / f"{command_line[0]}-report"
        status, _, err = await run(*command_line, "--store", registry.store, "-o", report)
        assert (report / "report.html").exists(), (status, err)
        page = await browser.new_page(viewport={"width": 1400, "height": 900})
        await page.goto((report / "report.html").as_uri())
        assert await cut_off(page, ".panel") == []
        await page.set_viewport_size({"width": 400, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= 400
        lines = await page.locator(".rules td:nth-child(-n + 2)").evaluate_all(
            """cells => cells.map(cell => {
              const words = document.createRange()
              words.selectNodeContents(cell)
              return words.getClientRects().length
            })"""
        )
        assert set(lines) == ({1} if command_line[0] == "replay" else set())
        await page.close()

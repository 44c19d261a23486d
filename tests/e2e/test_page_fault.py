"""The operators' page of a station that can judge nothing, in a real Chromium, served by a real server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from playwright.async_api import Browser, expect

from schemas.messages import Decision, Fault, FaultCode, StationState
from tests.support.hmi import HmiBench, make_frame, make_verdict
from tests.support.page import PAGE_MARKS, opened

pytestmark = PAGE_MARKS


def set_fault(bench: HmiBench, code: FaultCode | None, text: str = "") -> None:
    """Put the station into a fault, or out of it."""
    if code is None:
        bench.view.state, bench.view.fault = StationState.READY, None
    else:
        bench.view.state = StationState.FAULT if code < FaultCode.SINK_DOWN else StationState.DEGRADED
        bench.view.fault = Fault(code=code, text=text)


@pytest.mark.parametrize("decision", [Decision.OK, Decision.DAMAGED])
async def test_page_of_a_paused_station_is_neutral(browser: Browser, bench: HmiBench, decision: Decision) -> None:
    """What was said before is no verdict of now, and the gate will not be told it again."""
    async with opened(browser, bench) as page:
        hero, lamp = page.locator(".hero"), page.locator(".gate .value")
        await bench.judge(make_verdict(1, decision, decided_at=datetime.now(UTC)), make_frame())
        await expect(page.locator(f".hero.{decision.value}")).to_contain_text("C-000001")
        set_fault(bench, FaultCode.PAUSED, "station: paused by command")
        await expect(page.locator(".trouble")).to_have_text("report_problemstation: paused by command")
        for text in ("WAITING", "C-000001", f"{decision.value} before the fault"):
            await expect(page.locator(".hero.none")).to_contain_text(text)
        await expect(page.locator(".hero .score")).to_be_hidden()
        await expect(lamp).to_have_text("--")
        await expect(page.locator(".gate")).to_have_class("gate")
        await expect(page.locator(".mode")).to_contain_text("BEFORE THE FAULT")
        await page.locator(".entry").first.click()  # somebody wants to see it
        await expect(page.locator(f".hero.{decision.value}")).to_contain_text("C-000001")
        await expect(page.locator(".mode")).to_contain_text("HELD")
        await expect(lamp).to_have_text("--")
        await page.get_by_role("button", name="Back to live").click()
        await expect(hero).to_contain_text("WAITING")
        set_fault(bench, None)
        await expect(page.locator(f".hero.{decision.value}")).to_contain_text("C-000001")
        await expect(lamp).not_to_have_text("--")
        await expect(page.locator(".mode")).to_contain_text("LIVE")


async def test_parts_of_a_fault_are_shown(browser: Browser, bench: HmiBench) -> None:
    """They are ERROR and their gate rejects, which is so."""
    set_fault(bench, FaultCode.MODEL_UNAVAILABLE, "model: none is active")
    async with opened(browser, bench) as page:
        await expect(page.locator(".hero.none")).to_contain_text("no part yet")
        await bench.judge(make_verdict(1, Decision.ERROR))
        await expect(page.locator(".hero.ERROR")).to_contain_text("C-000001")
        await expect(page.locator(".gate.REJECT .value")).to_have_text("REJECT")


async def test_trouble_that_ends_no_judging_leaves_the_verdict(browser: Browser, bench: HmiBench) -> None:
    """A journal that cannot be written says nothing against the part."""
    await bench.judge(make_verdict(1))
    async with opened(browser, bench) as page:
        set_fault(bench, FaultCode.JOURNAL_FAILING, "journal: disk full")
        await expect(page.locator(".state")).to_contain_text("DEGRADED")
        await expect(page.locator(".hero.OK")).to_contain_text("C-000001")
        await expect(page.locator(".gate.PASS .value")).to_have_text("PASS")

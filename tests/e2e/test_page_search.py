"""What the history says of a search, in a real Chromium, served by a real server."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, Page, expect

from schemas.messages import Decision
from tests.support.hmi import HmiBench, make_frame, make_verdict
from tests.support.page import PAGE_MARKS, opened

pytestmark = PAGE_MARKS

ALIKE = ["C-1", " C-1", "C-1  ", "C-\u202e1\u202c", "   "]
"""Ids that look like each other."""


async def search_for(page: Page, part_id: str) -> None:
    # what is typed before the page's socket is there is heard by nobody
    await page.wait_for_function("() => window.did_handshake")
    field = page.get_by_label("Part id, exactly")
    await field.fill(part_id)
    await field.press("Enter")


async def expect_nothing_chosen(page: Page) -> None:
    await expect(page.locator(".hero.none")).to_contain_text("no part is chosen")
    for words in (".age", ".reason", ".latency", ".mark", ".caption"):
        await expect(page.locator(words)).to_have_text("")
    await expect(page.locator(".picture img")).to_be_hidden()
    await expect(page.locator(".absent")).to_be_hidden()
    await expect(page.locator(".entry:visible")).to_have_count(0)


@pytest.mark.parametrize("unknown", ["C-9", "x" * 257])
async def test_search_that_finds_nothing_shows_no_verdict(browser: Browser, bench: HmiBench, unknown: str) -> None:
    """A green of another part beside "nothing found" would be taken for an answer; nor does a reload bring it back."""
    await bench.judge(make_verdict(1), make_frame())
    async with opened(browser, bench, address="/history") as page:
        await expect(page.locator(".hero.OK")).to_contain_text("C-000001")
        await search_for(page, unknown)
        await expect(page.locator(".empty")).to_have_text("nothing found")
        await expect_nothing_chosen(page)
        await page.keyboard.press("d")
        if len(unknown) < 256:
            await expect(page).to_have_url(f"{bench.server.url}/history?part={unknown}")
            await page.reload()
            await expect_nothing_chosen(page)
        await search_for(page, "C-000001")
        await expect(page.locator(".hero.OK")).to_contain_text("C-000001")
        await page.get_by_role("button", name="ERROR", exact=True).click()
        await expect_nothing_chosen(page)


async def test_part_is_found_by_its_own_id(browser: Browser, bench: HmiBench) -> None:
    """Blanks around it and marks of direction belong to an id, and its address opens it again."""
    for seq, part_id in enumerate(ALIKE, start=1):
        await bench.judge(make_verdict(seq, part_id=part_id, score=seq / 10))
    async with opened(browser, bench, address="/history") as page:
        for seq, part_id in enumerate(ALIKE, start=1):
            await search_for(page, part_id)
            for _ in range(2):
                await expect(page.locator(".entry:visible")).to_have_count(1)
                await expect(page.locator(".hero .score")).to_contain_text(f"s {seq / 10:.3f}")
                await expect(page).to_have_url(re.compile(rf"event=e{seq}\b"))  # told a moment after the part
                await page.reload()


async def test_what_a_copy_brought_along_hides_no_part(browser: Browser, bench: HmiBench) -> None:
    """Where no id is that to the letter; all pages of the list are then those of that part."""
    for seq in range(1, 41):
        await bench.judge(make_verdict(seq, Decision.DAMAGED, part_id="C-1" if seq % 20 else "C-2"))
    async with opened(browser, bench, address="/history") as page:
        for typed in (" C-2 ", "\u2068C-2\u2069", "C-2\t"):
            await search_for(page, typed)
            await expect(page.locator(".entry:visible")).to_have_count(2)
        await search_for(page, "\u200eC-1")  # this mark turns nothing, and is left where it is
        await expect(page.locator(".entry:visible")).to_have_count(0)
        await search_for(page, "C-1 ")
        await expect(page.locator(".entry:visible")).to_have_count(25)
        await page.get_by_label("Part id, exactly").fill("not searched for yet")
        await page.get_by_role("button", name="Older", exact=True).click()
        await expect(page.locator(".entry:visible")).to_have_count(13)
        await page.get_by_role("button", name="Newer", exact=True).click()
        await expect(page.locator(".entry:visible")).to_have_count(25)

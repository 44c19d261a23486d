"""The history of the station in a real Chromium, served by a real server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from schemas.messages import Decision
from service.ports import VerdictQuery
from tests.support.hmi import HmiBench, make_frame, make_verdict
from tests.support.page import PAGE_MARKS, cut_off, lying_on, opened, too_small

pytestmark = PAGE_MARKS


async def judge_sixty(bench: HmiBench) -> None:
    """Judge parts of which numbers 5 and 55 are damaged and number 30 could not be judged."""
    decisions = {5: Decision.DAMAGED, 55: Decision.DAMAGED, 30: Decision.ERROR}
    for seq in range(1, 61):
        verdict = make_verdict(seq, decisions.get(seq, Decision.OK), boxes=[(9, 9, 90, 90)] if seq == 5 else ())
        await bench.judge(verdict, make_frame() if seq == 5 else None)


def parts(page: Page) -> Locator:
    """Find the parts in the list."""
    return page.locator(".entry:visible .part")


async def expect_listed(page: Page, seqs: Iterable[int]) -> None:
    await expect(parts(page)).to_have_text([f"C-{seq:06d}" for seq in seqs])


async def expect_first(page: Page, seq: int) -> None:
    await expect(page.locator(".entry .part").first).to_have_text(f"C-{seq:06d}")


async def expect_shown(page: Page, seq: int) -> None:
    await expect(page.locator(".hero .part")).to_have_text(f"C-{seq:06d}")


async def test_history_of_an_unused_station_is_empty(browser: Browser, bench: HmiBench) -> None:
    """Nothing is found, and nothing goes wrong when keys are pressed all the same."""
    async with opened(browser, bench, address="/history") as page:
        await expect(page.locator(".empty")).to_have_text("nothing found")
        await expect(page.locator(".hero")).to_contain_text("no part is chosen")
        for key in ("ArrowLeft", "ArrowRight", "d"):
            await page.keyboard.press(key)
        await expect(page.locator(".entry:visible")).to_have_count(0)


async def test_history_is_paged_through_newest_first(browser: Browser, bench: HmiBench) -> None:
    """To the first part and back."""
    await judge_sixty(bench)
    async with opened(browser, bench, address="/history") as page:
        await expect_shown(page, 60)
        await expect_listed(page, range(60, 35, -1))
        older, newer = (page.get_by_role("button", name=name, exact=True) for name in ("Older", "Newer"))
        await expect(newer).to_be_disabled()
        await older.click()
        await expect_first(page, 35)
        await older.click()
        await expect_first(page, 10)
        await expect(older).to_be_disabled()
        await expect_listed(page, range(10, 0, -1))
        await newer.click()
        await expect_first(page, 35)
        await page.get_by_role("button", name="Newest").click()
        await expect_first(page, 60)


async def test_unreadable_verdict_ends_no_history(
    browser: Browser, bench: HmiBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies behind it can still be reached."""
    await judge_sixty(bench)
    stored = bench.journal.page

    async def page_with_rot(query: VerdictQuery) -> Sequence[bytes]:
        return [b"\x00\xff" if b'"C-000050"' in row else row for row in await stored(query)]

    monkeypatch.setattr(bench.journal, "page", page_with_rot)
    async with opened(browser, bench, address="/history") as page:
        await expect_shown(page, 60)
        await expect_listed(page, [*range(60, 50, -1), *range(49, 34, -1)])
        await page.get_by_role("button", name="Older", exact=True).click()
        await expect_first(page, 34)


async def test_history_is_searched_by_part_and_decision(browser: Browser, bench: HmiBench) -> None:
    """As the API does it, exactly; and what no part can be called is told."""
    await judge_sixty(bench)
    async with opened(browser, bench, address="/history") as page:
        await page.get_by_role("button", name="DAMAGED", exact=True).click()
        await expect_first(page, 55)
        await expect_listed(page, [55, 5])
        search = page.get_by_label("Part id, exactly")
        await search.fill(" C-000005 ")
        await search.press("Enter")
        await expect(page.locator(".entry:visible")).to_have_count(1)
        await expect_shown(page, 5)
        await page.get_by_role("button", name="ERROR", exact=True).click()
        await expect(page.locator(".empty")).to_be_visible()
        await search.fill("x" * 300)
        await search.press("Enter")
        await expect(page.locator(".note")).to_contain_text("no part is called that")


async def test_picked_part_is_shown_with_picture_and_reason(browser: Browser, bench: HmiBench) -> None:
    """And has an address that opens it again."""
    await judge_sixty(bench)
    async with opened(browser, bench, address="/history?decision=DAMAGED") as page:
        await page.locator(".entry", has_text="C-000005").click()
        for text in ("DAMAGED", "score at or above the limit", "s 0.900 ≥ τ 0.736"):
            await expect(page.locator(".hero")).to_contain_text(text)
        await expect(page.locator(".caption")).to_contain_text("1 box")
        await page.wait_for_function("document.querySelector('.picture img').naturalWidth === 320")
        await expect(page).to_have_url(f"{bench.server.url}/history?event=e5&decision=DAMAGED")
        await page.reload()
        await expect_shown(page, 5)
        await expect_listed(page, [5])


async def test_keys_lead_through_the_whole_journal(browser: Browser, bench: HmiBench) -> None:
    """Beyond the page of the list, and to the line at last."""
    await judge_sixty(bench)
    async with opened(browser, bench, address="/history") as page:
        steps = [("d", 55), ("ArrowRight", 56), ("ArrowLeft", 55), ("d", 5), ("ArrowRight", 6), ("d", 5), ("d", 5)]
        for key, seq in steps:
            await page.keyboard.press(key)
            await expect_shown(page, seq)
        await expect(page.locator(".note")).to_have_text("no damaged part further back")
        await page.get_by_role("button", name="Newest").click()
        await expect_first(page, 60)
        await page.locator(".entry", has_text="C-000036").click()
        for key, seq in (("ArrowLeft", 35), ("ArrowRight", 36)):
            await page.keyboard.press(key)
            await expect_shown(page, seq)
        await page.keyboard.press("Escape")
        await expect(page.locator(".mode")).to_contain_text("LAST PART")


async def test_newer_page_ends_where_the_older_one_begins(browser: Browser, bench: HmiBench) -> None:
    """Also from an address in the middle, and where most parts are filtered out."""
    for seq in range(1, 331):
        await bench.judge(make_verdict(seq, Decision.DAMAGED if seq == 9 or seq > 290 else Decision.OK))
    async with opened(browser, bench, address="/history?event=e100") as page:
        newer = page.get_by_role("button", name="Newer", exact=True)
        await expect_first(page, 111)
        await newer.click()
        await expect_first(page, 136)
        await expect(parts(page).last).to_have_text("C-000112")
        await page.goto(f"{bench.server.url}/history?decision=DAMAGED&before=290")
        await expect_first(page, 9)
        await newer.click()
        await expect(page.locator(".entry", has_text="C-000291")).to_be_visible()
        first = int((await parts(page).first.inner_text())[2:])
        await newer.click()
        await expect_first(page, min(330, first + 25))
        await newer.click()
        await expect_first(page, 330)


async def test_address_opens_any_event_and_is_never_more_than_words(browser: Browser, bench: HmiBench) -> None:
    """Whatever the id holds; one that nobody knows, or a value that means nothing, is told."""
    event_id = "../<img src=x onerror=alert(1)>\"'&part=x#ü"
    await bench.judge(make_verdict(1, event_id=event_id), make_frame())
    async with opened(browser, bench, address=f"/history?event={quote(event_id, safe='')}") as page:
        await expect_shown(page, 1)
        await page.wait_for_function("document.querySelector('.picture img').naturalWidth === 320")
        await page.locator(".entry").first.click()
        await page.reload()
        await expect_shown(page, 1)
        await page.goto(f"{bench.server.url}/history?event=<b>nobody</b>&decision=<b>")
        await expect(page.locator(".note")).to_have_text("there is no verdict on this event")
        await page.goto(f"{bench.server.url}/history?before=<b>")
        await expect(page.locator(".note")).to_have_text("before, in the address, must be the number of a part")


async def test_journal_trouble_is_told(browser: Browser, bench: HmiBench) -> None:
    """The page stays as it is, and works again when the journal does."""
    await judge_sixty(bench)
    async with opened(browser, bench, address="/history?before=36") as page:
        await expect_listed(page, range(35, 10, -1))
        newer, older = (page.get_by_role("button", name=name, exact=True) for name in ("Newer", "Older"))
        bench.journal.failing = True
        for button in (page.get_by_role("button", name="Newest"), newer, older):
            await button.click()
            await expect(page.locator(".note")).to_have_text("journal: disk full")
            await expect_listed(page, range(35, 10, -1))
            await expect(newer).to_be_enabled()
        bench.journal.failing = False
        await newer.click()
        await expect_first(page, 60)
        await expect(page.locator(".note")).to_have_text("")


@pytest.mark.parametrize("size_wh", [(1920, 1080), (1280, 720), (1024, 768), (800, 480), (400, 800)], ids=str)
async def test_history_fits_the_screen(browser: Browser, bench: HmiBench, size_wh: tuple[int, int]) -> None:
    """As the line's page does."""
    await judge_sixty(bench)
    async with opened(browser, bench, size_wh, address="/history") as page:
        await expect_shown(page, 60)
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= size_wh[0]
        if size_wh[0] <= 1000:
            assert await lying_on(page, ".above > *, .below > *", ".frame, .absent") == []
        assert (
            await cut_off(page, ".hero *, .bar *, .head *, .entry *, .above, .above *, .below *, .search, .paging *")
            == []
        )
        assert await too_small(page) == []

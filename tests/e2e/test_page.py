"""The operators' page in a real Chromium, served by a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Request, async_playwright, expect

from schemas.messages import Decision, Fault, FaultCode, StationState
from tests.support.browser import CHROMIUM, CHROMIUM_ARGS
from tests.support.hmi import HmiBench, make_frame, make_verdict, served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        await browser.close()


@pytest.fixture
def bench(tmp_path: Path) -> HmiBench:
    return HmiBench(tmp_path / "pictures")


@asynccontextmanager
async def opened(browser: Browser, bench: HmiBench, size_wh: tuple[int, int] = (1280, 720)) -> AsyncIterator[Page]:
    """Open the page of `bench`; afterwards nothing may have been asked of another host, and nothing have gone wrong."""
    troubles: list[str] = []

    def check_host(request: Request) -> None:
        if urlsplit(request.url).scheme not in ("data", "blob") and urlsplit(request.url).hostname != "127.0.0.1":
            troubles.append(f"request beyond this machine: {request.url}")

    async with served(bench):
        page = await browser.new_page(viewport={"width": size_wh[0], "height": size_wh[1]})
        page.on("request", check_host)
        page.on("pageerror", lambda error: troubles.append(f"script failed: {error}"))
        page.on("console", lambda entry: troubles.append(entry.text) if entry.type == "error" else None)
        await page.goto(bench.server.url)
        await expect(page.locator(".trend canvas")).to_be_visible()
        yield page
        await page.close()
    assert not troubles


async def judge_three(bench: HmiBench) -> None:
    await bench.judge(make_verdict(1, Decision.OK), make_frame(grey=60))
    await bench.judge(make_verdict(2, Decision.DAMAGED, boxes=[(10, 10, 90, 90)]), make_frame(grey=120))
    await bench.judge(make_verdict(3, Decision.ERROR))


async def test_page_without_any_part_waits(browser: Browser, bench: HmiBench) -> None:
    """Before the first part nothing looks like a verdict."""
    async with opened(browser, bench) as page:
        await expect(page.locator(".hero")).to_contain_text("WAITING")
        await expect(page.locator(".station")).to_have_text("line1")
        await expect(page.locator(".state")).to_contain_text("READY")
        await expect(page.locator(".model")).to_have_text("canister@3")
        await expect(page.locator(".gate .value")).to_have_text("--")


async def test_page_follows_the_line(browser: Browser, bench: HmiBench) -> None:
    """A new part changes verdict, picture, gate, counters and table without a reload."""
    async with opened(browser, bench) as page:
        await judge_three(bench)
        await expect(page.locator(".hero")).to_contain_text("ERROR")
        await expect(page.locator(".hero")).to_contain_text("picture missing")
        await expect(page.locator(".absent")).to_be_visible()
        await bench.judge(make_verdict(4, Decision.DAMAGED, boxes=[(10, 10, 90, 90)]), make_frame())
        hero = page.locator(".hero")
        for text in ("DAMAGED", "C-000004", "score at or above the limit", "42 ms", "s 0.900 ≥ τ 0.736"):
            await expect(hero).to_contain_text(text)
        await expect(page.locator(".gate .value")).to_have_text("REJECT")
        assert await page.locator(".tile .value").all_inner_texts() == ["1", "2", "1", "75%"]
        assert await page.locator(".parts .part").all_inner_texts() == [f"C-{seq:06d}" for seq in (4, 3, 2, 1)]
        await page.wait_for_function("document.querySelector('.picture img').naturalWidth === 320")


async def test_clicked_row_is_held_until_live_returns(browser: Browser, bench: HmiBench) -> None:
    """New parts do not take a picture away from somebody who looks at it; the gate lamp stays true."""
    await judge_three(bench)
    async with opened(browser, bench) as page:
        await page.locator(".parts .part", has_text="C-000002").click()
        await expect(page.locator(".mode")).to_contain_text("HELD")
        await expect(page.locator(".hero")).to_contain_text("C-000002")
        await bench.judge(make_verdict(4, Decision.OK), make_frame())
        await expect(page.locator(".parts .part").first).to_have_text("C-000004")
        await expect(page.locator(".gate .value")).to_have_text("PASS")
        await expect(page.locator(".hero")).to_contain_text("C-000002")
        await expect(page.locator(".picture img")).to_have_attribute("src", "api/verdicts/e2/image?overlay=boxes")
        await page.get_by_role("button", name="Back to live").click()
        await expect(page.locator(".hero")).to_contain_text("C-000004")
        await expect(page.locator(".mode")).to_contain_text("LIVE")


async def test_clicked_point_of_the_trend_is_held(browser: Browser, bench: HmiBench) -> None:
    """The way from an outlier to its picture is one click."""
    await judge_three(bench)
    async with opened(browser, bench) as page:
        at = await page.evaluate(
            "getElement(document.querySelector('.trend .chart').id.slice(1)).chart.convertToPixel('grid', [1, 0.9])"
        )
        await page.locator(".trend .chart").click(position={"x": at[0], "y": at[1]})
        await expect(page.locator(".hero")).to_contain_text("C-000002")
        await expect(page.locator(".mode")).to_contain_text("HELD")


async def test_overlay_can_be_chosen(browser: Browser, bench: HmiBench) -> None:
    """Boxes, heat map or the plain picture."""
    await bench.judge(make_verdict(1), make_frame())
    async with opened(browser, bench) as page:
        for label, overlay in (("Heat", "heatmap"), ("Plain", "none"), ("Boxes", "boxes")):
            await page.get_by_role("button", name=label).click()
            source = f"api/verdicts/e1/image?overlay={overlay}"
            await expect(page.locator(".picture img")).to_have_attribute("src", source)
        await page.wait_for_function("document.querySelector('.picture img').naturalWidth === 320")


async def test_trouble_of_the_station_is_told(browser: Browser, bench: HmiBench) -> None:
    """State and reason appear by themselves and go by themselves."""
    async with opened(browser, bench) as page:
        await expect(page.locator(".trouble")).to_be_hidden()
        bench.view.state = StationState.FAULT
        bench.view.fault = Fault(code=FaultCode.MODEL_UNAVAILABLE, text="model: none is active")
        await expect(page.locator(".trouble")).to_contain_text("model: none is active")
        await expect(page.locator(".state")).to_contain_text("FAULT")
        bench.view.state, bench.view.fault = StationState.READY, None
        await expect(page.locator(".trouble")).to_be_hidden()


async def test_words_from_the_wire_stay_words(browser: Browser, bench: HmiBench) -> None:
    """A part id is text wherever it is shown, whatever it looks like."""
    part_id = "<img src=x onerror=\"document.title='owned'\">{{ 7*7 }}"
    await bench.judge(make_verdict(1, part_id=part_id, event_id="../<e>?1"), make_frame())
    async with opened(browser, bench) as page:
        await expect(page.locator(".hero .part")).to_have_text(part_id)
        await expect(page.locator(".parts .part")).to_have_text(part_id)
        await page.wait_for_function("document.querySelector('.picture img').naturalWidth === 320")
        assert await page.title() == "line1 · cangate"


async def test_page_does_not_grow_with_the_parts(browser: Browser, bench: HmiBench) -> None:
    """A page may stay open for a month."""
    async with opened(browser, bench) as page:
        sizes = []
        for first in (1, 201, 401):
            for seq in range(first, first + 200):
                await bench.judge(make_verdict(seq))
            await expect(page.locator(".hero .part")).to_have_text(f"C-{first + 199:06d}")
            await expect(page.locator(".parts .part")).to_have_count(12)
            sizes.append(await page.evaluate("document.querySelectorAll('*').length"))
        assert sizes[0] == sizes[1] == sizes[2]


@pytest.mark.parametrize("size_wh", [(1920, 1080), (1280, 720), (800, 600)], ids=str)
async def test_page_fits_the_screen(browser: Browser, bench: HmiBench, size_wh: tuple[int, int]) -> None:
    """Nothing is cut off; only the narrow panel scrolls, and only downwards."""
    for seq in range(1, 31):
        await bench.judge(make_verdict(seq, Decision.DAMAGED), make_frame() if seq == 30 else None)
    async with opened(browser, bench, size_wh) as page:
        page_wh = await page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert page_wh[0] <= size_wh[0]
        if size_wh[0] > 1000:
            assert page_wh[1] <= size_wh[1]
        cut_off = await page.evaluate(
            "[...document.querySelectorAll('.hero *, .counters *, .bar *')]"
            ".filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline')"
            ".map(e => e.className)"
        )
        assert cut_off == []


async def test_lost_server_is_told_and_nothing_green_remains(browser: Browser, bench: HmiBench) -> None:
    """What an operator sees is the present, or is marked as not."""
    await bench.judge(make_verdict(1), make_frame())
    async with served(bench):
        page = await browser.new_page()
        await page.goto(bench.server.url)
        await expect(page.locator(".hero")).to_contain_text("OK")
        await expect(page.locator("#popup")).to_be_hidden()
    await asyncio.to_thread(bench.pictures.close)
    await expect(page.locator("#popup")).to_be_visible(timeout=20_000)
    assert "grayscale" in await page.evaluate("getComputedStyle(document.querySelector('.page')).filter")
    await page.close()

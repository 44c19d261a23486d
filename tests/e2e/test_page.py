"""The operators' page in a real Chromium, served by a real server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from schemas.messages import Decision, Fault, FaultCode, StationState
from tests.support.hmi import HmiBench, make_frame, make_inspection, make_verdict, served
from tests.support.page import PAGE_MARKS, cut_off, lying_on, opened, too_small

pytestmark = PAGE_MARKS


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
        await expect(page.locator(".tile .value")).to_have_text(["1", "2", "1", "75%"])
        await expect(page.locator(".tile .base")).to_have_text([*["since start"] * 3, "of last 4"])
        await expect(page.locator(".entry:visible .part")).to_have_text([f"C-{seq:06d}" for seq in (4, 3, 2, 1)])
        await page.wait_for_function("document.querySelector('.picture img').naturalWidth === 320")


async def test_clicked_row_is_held_until_live_returns(browser: Browser, bench: HmiBench) -> None:
    """New parts do not take a picture away from somebody who looks at it; the gate lamp stays true."""
    await judge_three(bench)
    async with opened(browser, bench) as page:
        await page.locator(".parts .part", has_text="C-000002").click()
        await expect(page.locator(".mode")).to_contain_text("HELD")
        await expect(page.locator(".hero")).to_contain_text("C-000002")
        await bench.judge(make_verdict(4, Decision.OK, decided_at=datetime.now(UTC)), make_frame())
        await expect(page.locator(".parts .part").first).to_have_text("C-000004")
        await expect(page.locator(".gate .value")).to_have_text("PASS")
        await expect(page.locator(".gate .title")).to_have_text("GATE NOW, \u2068C-000004\u2069")
        await expect(page.locator(".hero")).to_contain_text("C-000002")
        await expect(page.locator(".picture img")).to_have_attribute("src", "picture?event=e2&overlay=boxes")
        await page.get_by_role("button", name="Back to live").click()
        await expect(page.locator(".hero")).to_contain_text("C-000004")
        await expect(page.locator(".mode")).to_contain_text("LIVE")
        await expect(page.locator(".gate .title")).to_have_text("GATE")


async def test_clicked_point_of_the_trend_is_held(browser: Browser, bench: HmiBench) -> None:
    """The way from an outlier to its picture is one click."""
    await judge_three(bench)
    async with opened(browser, bench) as page:
        await expect(page.locator(".trend canvas")).to_be_visible()
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
            source = f"picture?event=e1&overlay={overlay}"
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
        await expect(page.locator(".entry:visible .part")).to_have_text(part_id)
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


@pytest.mark.parametrize("size_wh", [(1920, 1080), (1280, 720), (1024, 768), (800, 480), (400, 800)], ids=str)
async def test_page_fits_the_screen(browser: Browser, bench: HmiBench, size_wh: tuple[int, int]) -> None:
    """Nothing is cut off, a finger hits what it aims at.

    Only what is narrow scrolls, beyond verdict and gate, and there nothing lies on the picture or the chart.
    """
    for seq in range(1, 31):
        await bench.judge(make_verdict(seq, Decision.DAMAGED), make_frame() if seq == 30 else None)
    async with opened(browser, bench, size_wh) as page:
        await page.locator(".entry").nth(2).click()
        await expect(page.locator(".mode")).to_contain_text("HELD")
        page_wh = await page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert page_wh[0] <= size_wh[0]
        if size_wh[0] > 1000:
            assert page_wh[1] <= size_wh[1]
        else:
            assert await lying_on(page, ".above > *, .below > *", ".frame, .absent") == []
            assert await lying_on(page, ".heading", ".chart") == []
        gate = await page.locator(".gate").bounding_box()
        assert gate is not None
        assert gate["y"] + gate["height"] <= size_wh[1]
        assert await cut_off(page, ".hero *, .counters *, .bar *, .head *, .entry *, .above, .above *, .below *") == []
        assert await too_small(page) == []


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


async def test_page_after_a_restart_is_neutral_until_the_next_part(browser: Browser, bench: HmiBench) -> None:
    """The gate was told nothing yet: the tags say Verdict 0 and Reject, and no green may say otherwise."""
    await bench.judge(make_verdict(7), make_frame())
    bench.server = bench.new_server()
    async with opened(browser, bench) as page:
        hero, lamp = page.locator(".hero"), page.locator(".gate .value")
        for text in ("WAITING", "C-000007", "OK before the restart", "31 Jan", "days ago"):
            await expect(hero).to_contain_text(text)
        await expect(hero).not_to_have_class("OK")
        await expect(lamp).to_have_text("--")
        await expect(page.locator(".tile.rate .value")).to_have_text("--")
        await expect(page.locator(".mode")).to_contain_text("BEFORE THE RESTART")
        await bench.judge(make_verdict(8, decided_at=datetime.now(UTC)), make_frame())
        await expect(page.locator(".hero.OK")).to_contain_text("C-000008")
        await expect(lamp).to_have_text("PASS")
        await expect(page.locator(".mode")).to_contain_text("LIVE")


async def test_lamp_says_what_the_gate_was_told(browser: Browser, bench: HmiBench) -> None:
    """A PASS after its deadline was never said, and a replayed part moves nothing at the gate."""
    async with opened(browser, bench) as page:
        await bench.judge(make_verdict(1), left_s=-1)
        await expect(page.locator(".hero")).to_contain_text("too late for the gate")
        await expect(page.locator(".gate .value")).to_have_text("REJECT")
        await bench.judge(make_verdict(2))
        await expect(page.locator(".gate .value")).to_have_text("PASS")
        await bench.judge(make_verdict(3, Decision.DAMAGED, replayed=True))
        await expect(page.locator(".hero")).to_contain_text("replayed")
        listed = ["\u2068C-000003\u2069 · replayed", "C-000002", "C-000001"]
        await expect(page.locator(".entry:visible .part")).to_have_text(listed)
        await expect(page.locator(".gate")).to_contain_text("GATE NOW, \u2068C-000002\u2069")
        await expect(page.locator(".gate .value")).to_have_text("PASS")
        await expect(page.locator(".tile .value")).to_have_text(["2", "0", "0", "50%"])


async def test_stopped_line_is_told_by_the_age_of_its_last_part(browser: Browser, bench: HmiBench) -> None:
    """A green from before the break is no green of now."""
    await bench.judge(make_verdict(1, decided_at=datetime.now(UTC)))
    async with opened(browser, bench) as page:
        await expect(page.locator(".mode")).to_have_text("sensorsLIVE")
        await bench.judge(make_verdict(2, decided_at=datetime.now(UTC) - timedelta(minutes=12, seconds=5)))
        await expect(page.locator(".mode")).to_contain_text("LAST PART 12 min ago")
        await expect(page.locator(".hero .age")).to_have_text("12 min ago")


async def test_row_stays_beneath_finger_and_focus(browser: Browser, bench: HmiBench) -> None:
    """A long press picks the part that it began on, whatever comes in; Enter and Space pick, too."""
    await judge_three(bench)
    async with opened(browser, bench) as page:
        second = page.locator(".entry").nth(1)
        await expect(second).to_contain_text("C-000002")
        await second.focus()
        await second.evaluate("row => { window.row = row }")
        await second.hover()
        clock = page.locator(".clock")
        pressed_at = await clock.inner_text()
        await page.mouse.down()
        await bench.judge(make_verdict(4))
        await expect(second).to_contain_text("C-000003")
        await expect(clock).not_to_have_text(pressed_at)  # a tick of the page as well
        await page.mouse.up()
        await expect(page.locator(".hero .part")).to_have_text("C-000002")
        for key, newest in (("Enter", 5), ("Space", 6)):
            await bench.judge(make_verdict(newest))
            await expect(second).to_contain_text(f"C-00000{newest - 1}")
            assert await page.evaluate("document.activeElement === window.row")
            await page.keyboard.press(key)
            await expect(page.locator(".hero .part")).to_have_text(f"C-00000{newest - 1}")
        await expect(page.locator(".parts").get_by_role("button", pressed=True)).to_contain_text("C-000005")


async def test_keys_lead_from_part_to_part(browser: Browser, bench: HmiBench) -> None:
    """Left is older, right is newer, d the next damaged one further back, and Escape the line again."""
    for seq in range(1, 7):
        await bench.judge(make_verdict(seq, Decision.DAMAGED if seq in (2, 5) else Decision.OK))
    async with opened(browser, bench) as page:
        await expect(page.locator(".hero .part")).to_have_text("C-000006")
        for key, seq in (("ArrowLeft", 5), ("ArrowLeft", 4), ("ArrowRight", 5), ("d", 2), ("d", 2), ("Escape", 6)):
            await page.keyboard.press(key)
            await expect(page.locator(".hero .part")).to_have_text(f"C-00000{seq}")
        await page.get_by_role("button", name="next damaged").click()
        await expect(page.locator(".hero .part")).to_have_text("C-000005")
        await page.get_by_role("link", name="History").click()
        await expect(page.locator(".hero .part")).to_have_text("C-000005")


async def test_silent_service_is_told_and_nothing_green_remains(
    browser: Browser, bench: HmiBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that hangs answers no page, though the thread of the pages still does."""
    await bench.judge(make_verdict(1), make_frame())
    async with opened(browser, bench) as page:
        await expect(page.locator(".silence")).to_be_hidden()
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(bench.server._bridge, "status", asyncio.Event().wait)
            await expect(page.locator(".silence")).to_contain_text("service does not answer since")
            assert "grayscale" in await page.evaluate("getComputedStyle(document.querySelector('.page')).filter")
        await expect(page.locator(".silence")).to_be_hidden()


async def test_picture_that_comes_behind_its_verdict_is_shown(browser: Browser, bench: HmiBench) -> None:
    """It is offered some 50 ms later, off the way to the gate."""
    verdict, frame = make_verdict(1), make_frame()
    async with opened(browser, bench) as page:
        await bench.judge(verdict)
        await expect(page.locator(".absent")).to_be_visible()
        bench.pictures.offer(verdict, make_inspection(frame, verdict), frame)
        await expect(page.locator(".absent")).to_be_hidden()
        await page.wait_for_function("document.querySelector('.picture img').naturalWidth === 320")


@pytest.mark.parametrize("event_id", [".", "..", "a/../b", "%2e", "a b&overlay=none", "\u00fc?#"])
async def test_picture_of_any_event_is_shown(browser: Browser, bench: HmiBench, event_id: str) -> None:
    """A browser tidies up the path of an address, whatever the id in it was."""
    await bench.judge(make_verdict(1, event_id=event_id), make_frame())
    async with opened(browser, bench) as page:
        await page.wait_for_function("document.querySelector('.picture img').naturalWidth === 320")
        await page.get_by_role("link", name="History").click()
        await page.locator(".entry").first.click()
        await page.wait_for_function("document.querySelector('.picture img').naturalWidth === 320")
        await page.reload()
        await expect(page.locator(".hero .part")).to_have_text("C-000001")
        await page.wait_for_function("document.querySelector('.picture img').naturalWidth === 320")


async def test_unreadable_picture_is_told_in_words(browser: Browser, bench: HmiBench, tmp_path: Path) -> None:
    """Somebody tidied up behind our back."""
    await bench.judge(make_verdict(1), make_frame())
    async with served(bench):
        await asyncio.to_thread(bench.pictures.close)
        for path in (tmp_path / "pictures").glob("*.jpg"):
            path.write_bytes(b"no jpeg")
        page = await browser.new_page()
        await page.goto(bench.server.url)
        await expect(page.locator(".absent")).to_be_visible()
        await expect(page.locator(".picture img")).to_be_hidden()
        await page.close()


async def test_way_back_to_the_line_can_be_read(browser: Browser, bench: HmiBench) -> None:
    """Dark on light, whatever the library paints its buttons with."""
    await judge_three(bench)
    async with opened(browser, bench) as page:
        await page.locator(".entry").first.click()
        colours = await page.get_by_role("button", name="Back to live").evaluate(
            "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
        )
        assert colours == ["rgb(0, 0, 0)", "rgb(238, 238, 238)"]
